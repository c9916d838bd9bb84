"""Why a run is not begun, and the smallest change with which it would be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .errors import RequestError
from .machine import GB
from .plan import LARGEST, Plan, Planner
from .request import Request

SHARES = [n / 20 for n in range(19, 0, -1)]  # of a length or an area, the smallest change first


class DoesNotFit(RequestError):
    """A run that would need more memory than there is."""


def refusal(plan: Plan, planner: Planner) -> str:
    """Why a plan is not carried out, and the smallest change that would fit."""
    return f"{_reason(plan)} {_change(plan, planner)}"


def _reason(plan: Plan) -> str:
    if plan.longest.elements >= LARGEST:
        return (
            f"this is too long a sequence for {plan.longest.name}: its largest array would have "
            f"{plan.longest.elements / 1e9:.1f} billion elements, and MLX takes {LARGEST / 1e9:.1f}."
        )
    return (
        f"this would take {plan.needed / GB:.1f} GB for {plan.highest.name}, and "
        f"{plan.machine.usable / GB:.1f} of {plan.machine.memory / GB:.0f} GB may be used."
    )


def _change(plan: Plan, planner: Planner) -> str:
    request, inputs = plan.request, plan.inputs

    def fits(**changes: Any) -> bool:
        return planner.plan(replace(request, **changes), inputs, low_ram=None).fits

    if inputs.begin == "sound":  # latents have their length and size
        return "Close what else takes memory, or --force it."
    if not plan.low_ram and fits():
        return "With --low-ram it fits."
    changes = _smaller(request, fits, "--size") if inputs.begin == "upscale" else _least(request, fits)
    if changes is not None:
        return f"With {changes} it fits."
    if request.upscale is not None and inputs.begin == "text" and fits(upscale=None, upscale_size=None):
        return "Without --upscale it fits."
    return "No length and no size of it fits: take fewer bits (happyhorse convert -q), or --force it."


def _least(request: Request, fits: Callable[..., bool]) -> str | None:
    """The options of a shorter clip or of a smaller one, whichever is left with more."""
    shorter = next((s for s in SHARES if request.seconds * s >= 0.2 and fits(seconds=request.seconds * s)), 0)
    smaller = next((s for s in SHARES if fits(**_scaled(request, s))), 0)
    if shorter and shorter >= smaller:
        return f"--seconds {math.floor(request.seconds * shorter * 10) / 10:g}"
    return _smaller(request, fits, "--upscale-size")


def _smaller(request: Request, fits: Callable[..., bool], option: str) -> str | None:
    """The options of less area; `option` is that for the size to upscale to, where it is upscaled."""
    for share in SHARES:
        size = _scaled(request, share)
        if request.upscale is None and fits(**size):
            return f"--width {size['width']} --height {size['height']}"
        if request.upscale is not None:
            width, height = size["upscale_size"]
            if width * height <= request.width * request.height:
                return None
            if fits(**size):
                return f"{option} {width}x{height}"
    return None


def _scaled(request: Request, share: float) -> dict[str, Any]:
    """The settings of so much of the area that is made last."""
    width, height = (max(int(side * share**0.5) // 32 * 32, 32) for side in request.final_size)
    if request.upscale is not None:
        return {"upscale_size": (width, height)}
    return {"width": width, "height": height}
