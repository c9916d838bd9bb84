"""Estimate the memory and time of an order, and find a change that makes it fit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mlx_happyhorse.errors import HappyHorseError
from mlx_happyhorse.notes import listening
from mlx_happyhorse.pipeline.happyhorse import HappyHorse
from mlx_happyhorse.planning.plan import Plan

from .orders import Order

HIGH_MEMORY = 0.8  # of the usable memory: above this little is left for other programs
LONG_SECONDS = 3600.0


@dataclass(frozen=True)
class Estimate:
    """The memory and time that an order takes, as one `line` of text and as a `plan`.

    `state` is "green"; "amber" for much memory or a long time; or "red" for an order that cannot run. Then
    `fix` holds the settings that make it fit, if any do, and `fixed` is the same order with them."""

    state: Literal["green", "amber", "red"]
    line: str
    fix: dict[str, Any] = field(default_factory=dict)
    fixed: Order | None = None
    plan: Plan | None = None


def estimate(order: Order) -> Estimate:
    """Return the estimate of an order; an invalid one is "red", with the error as its line."""
    with listening(lambda note: None):
        try:
            horse = HappyHorse.load(order.model)
            plan = _plan(horse, order)
        except HappyHorseError as error:
            return Estimate("red", str(error))
        if plan.fits:
            high = plan.needed > HIGH_MEMORY * plan.machine.usable or plan.seconds > LONG_SECONDS
            return Estimate("amber" if high else "green", str(plan), plan=plan)
        suggestion = horse.refusal(plan).suggestion
        fix = {} if suggestion is None else suggestion.settings
        fixed = replace(order, settings=_without_ratio(order.settings, fix) | fix) if fix else None
        return Estimate("red", str(plan), fix, fixed, plan)


def _plan(horse: HappyHorse, order: Order) -> Plan:
    inputs: dict[str, Any] = {"image": order.image, "audio": order.audio}
    return horse.plan(order.prompt, keep_frames=False, **inputs, **order.settings)


def _without_ratio(settings: dict[str, Any], fix: dict[str, Any]) -> dict[str, Any]:
    """Drop the ratio if the fix sets width and height: a request takes one or the other."""
    return {name: value for name, value in settings.items() if name != "ratio" or "width" not in fix}
