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
NOT_UPSCALED: dict[str, Any] = {"upscale": None, "upscale_size": None}


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
    that is not upscaled, one that is both shorter and smaller."""
    upscaled = request.upscale is not None
    for share in SHARES:
        if begin == "text":
            options, changes = _shorter(request, share)
            yield f"With {options}", changes
        if not upscaled:
            options, changes = _smaller(request, share)
            yield f"With {options}", changes
        elif math.prod(size := _scaled(request.final_size, share)) > request.width * request.height:
            option = "--size" if begin == "upscale" else "--upscale-size"
            yield f"With {option} {size[0]}x{size[1]}", {"upscale_size": size}
    if begin != "text":
        return
    if upscaled:
        plain = replace(request, upscale=None, upscale_size=None)
        yield "Without --upscale", NOT_UPSCALED
        for how, changes in _changes(plain, begin):
            yield f"Without --upscale and {how[0].lower()}{how[1:]}", NOT_UPSCALED | changes
        return
    for share in SHARES:
        (shorter, less), (smaller, fewer) = _shorter(request, share), _smaller(request, share)
        yield f"With {shorter} {smaller}", less | fewer


def _shorter(request: Request, share: float) -> tuple[str, dict[str, Any]]:
    seconds = max(math.floor(10 * request.seconds * share) / 10, SHORTEST)
    return f"--seconds {seconds:g}", {"seconds": seconds}


def _smaller(request: Request, share: float) -> tuple[str, dict[str, Any]]:
    width, height = _scaled((request.width, request.height), share)
    return f"--width {width} --height {height}", {"width": width, "height": height}


def _scaled(size: tuple[int, int], share: float) -> tuple[int, int]:
    """Of so much of the area."""
    width, height = (max(int(side * share**0.5) // GRID * GRID, GRID) for side in size)
    return width, height
