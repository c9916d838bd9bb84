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
    for how, changes in _changes(request, inputs.begin):
        if fits(**changes):
            return f"{how} it fits."
    which = "smaller" if inputs.begin == "upscale" else "shorter and no smaller"
    return f"No {which} clip fits: take fewer bits (happyhorse convert -q), or --force it."


def _changes(request: Request, begin: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """How it would fit and with what settings, the smallest changes first: a clip shorter or smaller, one
    that is not upscaled, one that is both."""
    upscaled = request.upscale is not None
    for share in SHARES:
        if begin == "text":
            yield from _shorter(request, share)
        if not upscaled:
            yield _smaller(request, share)
        elif math.prod(size := _scaled(request.final_size, share)) > request.width * request.height:
            option = "--size" if begin == "upscale" else "--upscale-size"
            yield f"With {option} {size[0]}x{size[1]}", {"upscale_size": size}
    if begin != "text":
        return
    without, plain = "With", {}
    if upscaled:
        without, plain = "Without --upscale and with", {"upscale": None, "upscale_size": None}
        yield "Without --upscale", plain
    for share in SHARES:
        how, changes = _smaller(request, share)
        if upscaled:
            yield how.replace("With", without), plain | changes
        for shorter, less in _shorter(request, share):
            yield f"{shorter.replace('With', without)} {how.removeprefix('With ')}", plain | changes | less


def _shorter(request: Request, share: float) -> Iterator[tuple[str, dict[str, Any]]]:
    seconds = math.floor(10 * request.seconds * share) / 10
    if seconds >= SHORTEST:
        yield f"With --seconds {seconds:g}", {"seconds": seconds}


def _smaller(request: Request, share: float) -> tuple[str, dict[str, Any]]:
    width, height = _scaled((request.width, request.height), share)
    return f"With --width {width} --height {height}", {"width": width, "height": height}


def _scaled(size: tuple[int, int], share: float) -> tuple[int, int]:
    """Of so much of the area."""
    width, height = (max(int(side * share**0.5) // GRID * GRID, GRID) for side in size)
    return width, height
