"""What an order would take, and the change with which it fits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mlx_happyhorse.errors import HappyHorseError
from mlx_happyhorse.notes import told_to
from mlx_happyhorse.pipeline.happyhorse import HappyHorse
from mlx_happyhorse.planning.plan import Plan

from .orders import Order

FULL = 0.8  # of the memory that may be used: little is left for other programs
LONG = 3600.0  # seconds


@dataclass(frozen=True)
class Estimate:
    """What an order would take. `state` is "green", "amber" or "red", which cannot be run as asked; `fix` are
    the settings with which it can, `fixed` the same order with them."""

    state: Literal["green", "amber", "red"]
    line: str
    fix: dict[str, Any] = field(default_factory=dict)
    fixed: Order | None = None
    plan: Plan | None = None


def estimate(order: Order) -> Estimate:
    """Plan an order of a clip; what is wrong with it is said in the line."""
    with told_to(lambda note: None):
        try:
            horse = HappyHorse.load(order.model)
            plan = _plan(horse, order)
        except HappyHorseError as error:
            return Estimate("red", str(error))
        if plan.fits:
            tight = plan.needed > FULL * plan.machine.usable or plan.seconds > LONG
            return Estimate("amber" if tight else "green", str(plan), plan=plan)
        refusal = horse.refusal(plan)
        fix = {} if refusal.suggestion is None else refusal.suggestion.settings
        fixed = replace(order, settings=_without_ratio(order.settings, fix) | fix) if fix else None
        return Estimate("red", str(plan), fix, fixed, plan)


def _plan(horse: HappyHorse, order: Order) -> Plan:
    inputs: dict[str, Any] = {"image": order.image, "audio": order.audio}
    return horse.plan(order.prompt, keep_frames=False, **inputs, **order.settings)


def _without_ratio(settings: dict[str, Any], fix: dict[str, Any]) -> dict[str, Any]:
    """A ratio stands for width and height, which a fix may name."""
    return {name: value for name, value in settings.items() if name != "ratio" or "width" not in fix}
