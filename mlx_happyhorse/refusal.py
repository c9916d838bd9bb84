"""Why a run is not begun, and the smallest change with which it would be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .errors import RequestError
from .machine import GB
from .picture import GRID
from .plan import LARGEST, Plan, Planner
from .request import LIMITS, Request

SHARES = (*(n / 20 for n in range(19, 0, -1)), 0.03, 0.02, 0.01)  # of a length or an area
SHORTEST = LIMITS["seconds"][1][0]


class DoesNotFit(RequestError):
    """A run that would need more memory than there is."""


def refusal(plan: Plan, planner: Planner, low_ram: bool | None) -> str:
    """Why a plan, made with `low_ram`, is not carried out, and the smallest change that would fit."""
    return f"{_reason(plan)} {_change(plan, planner, low_ram)}"


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


def _change(plan: Plan, planner: Planner, low_ram: bool | None) -> str:
    request, inputs = plan.request, plan.inputs

    def fits(**changes: Any) -> bool:
        return planner.plan(replace(request, **changes), inputs, low_ram).fits

    if inputs.keep_frames:
        handed_on = replace(inputs, keep_frames=False)
        if planner.plan(request, handed_on, low_ram).fits:
            return "With stream(..., keep_frames=False) it fits."
    if inputs.begin == "sound":  # latents have their length and size
        return "Decode it on a machine with more, or --force it."
    if low_ram is False and planner.plan(request, inputs, low_ram=True).fits:
        return "With --low-ram it fits."
    for options, changes in _changes(request, inputs.begin):
        if fits(**changes):
            return f"With {options} it fits."
    if request.upscale is not None and inputs.begin == "text" and fits(upscale=None, upscale_size=None):
        return "Without --upscale it fits."
    which = "smaller" if inputs.begin == "upscale" else "shorter and no smaller"
    return f"No {which} clip fits: take fewer bits (happyhorse convert -q), or --force it."


def _changes(request: Request, begin: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Options and the settings that they make, the smallest changes first: a shorter clip, then a smaller."""
    for share in SHARES:
        seconds = math.floor(10 * request.seconds * share) / 10
        if begin == "text" and seconds >= SHORTEST:
            yield f"--seconds {seconds:g}", {"seconds": seconds}
        width, height = _scaled(request.final_size, share)
        if request.upscale is None:
            yield f"--width {width} --height {height}", {"width": width, "height": height}
            continue
        final = {"upscale_size": (width, height)}
        if width * height > request.width * request.height:
            yield f"{'--size' if begin == 'upscale' else '--upscale-size'} {width}x{height}", final
        w, h = _scaled((request.width, request.height), share)
        if begin == "text" and width * height > w * h:
            sizes = {"width": w, "height": h} | final
            yield f"--width {w} --height {h} --upscale-size {width}x{height}", sizes


def _scaled(size: tuple[int, int], share: float) -> tuple[int, int]:
    """Of so much of the area."""
    width, height = (max(int(side * share**0.5) // GRID * GRID, GRID) for side in size)
    return width, height
