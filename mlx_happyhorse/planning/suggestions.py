"""Why a run is refused, and the smallest change that makes it fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..errors import DoesNotFit, Suggestion, argument
from ..geometry import GRID
from ..inputs.request import LIMITS, Request
from .hardware import GB
from .plan import LARGEST, Plan
from .planner import Planner
from .stage import StageName

SHARES = (
    *(n / 20 for n in range(19, 0, -1)),
    0.03,
    0.02,
    0.01,
)  # of a length or an area, tried in this order
SHORTEST = LIMITS["seconds"][1][0]
NOT_UPSCALED: dict[str, Any] = {"upscale": None, "upscale_size": None}


def refusal(plan: Plan, planner: Planner, low_ram: bool | None) -> DoesNotFit:
    """Return the error for a plan that does not fit, made with `low_ram`."""
    return DoesNotFit(_reason(plan), _suggestion(plan, planner, low_ram), _otherwise(plan.inputs.begin))


def _reason(plan: Plan) -> str:
    if plan.longest.elements >= LARGEST:
        return (
            f"the sequence is too long for {plan.longest.name}: its largest array would have "
            f"{plan.longest.elements / 1e9:.1f} billion elements, and MLX takes {LARGEST / 1e9:.1f}."
        )
    return (
        f"this needs {plan.needed / GB:.1f} GB for {plan.highest.name}, and "
        f"{plan.machine.usable / GB:.1f} of {plan.machine.memory / GB:.0f} GB may be used."
    )


def _otherwise(begin: StageName) -> str:
    force = argument("force")
    if begin == StageName.SOUND:  # the latents' size is fixed
        return f"Decode it on a machine with more memory, or use {force}."
    which = "smaller" if begin == StageName.UPSCALE else "shorter and no smaller"
    return f"No {which} clip fits: use a model with fewer bits (happyhorse convert), or use {force}."


def _suggestion(plan: Plan, planner: Planner, low_ram: bool | None) -> Suggestion | None:
    request, inputs = plan.request, plan.inputs
    if inputs.keep_frames and planner.plan(request, replace(inputs, keep_frames=False), low_ram).fits:
        return Suggestion(keep_frames=False)
    if inputs.begin == StageName.SOUND:
        return None
    if low_ram is False and planner.plan(request, inputs, low_ram=True).fits:
        return Suggestion(low_ram=True)
    for changes in _changes(request, inputs.begin):
        if planner.plan(replace(request, **changes), inputs, low_ram).fits:
            return Suggestion(changes)
    return None


def _changes(request: Request, begin: StageName) -> Iterator[dict[str, Any]]:
    """Yield settings that might fit, smallest changes first: a clip that is shorter or smaller, one that is
    not upscaled, one that is both shorter and smaller."""
    upscaled = request.upscale is not None
    for share in SHARES:
        if begin == StageName.TEXT:
            yield _shorter(request, share)
        if not upscaled:
            yield _smaller(request, share)
        elif math.prod(size := _scaled(request.final_size, share)) > request.width * request.height:
            yield {"upscale_size": size}
    if begin != StageName.TEXT:
        return
    if upscaled:
        yield NOT_UPSCALED
        for changes in _changes(replace(request, **NOT_UPSCALED), begin):
            yield NOT_UPSCALED | changes
        return
    for share in SHARES:
        yield _shorter(request, share) | _smaller(request, share)


def _shorter(request: Request, share: float) -> dict[str, Any]:
    return {"seconds": max(math.floor(10 * request.seconds * share) / 10, SHORTEST)}


def _smaller(request: Request, share: float) -> dict[str, Any]:
    width, height = _scaled((request.width, request.height), share)
    return {"width": width, "height": height}


def _scaled(size: tuple[int, int], share: float) -> tuple[int, int]:
    """Return a size with this share of the area."""
    width, height = (max(int(side * share**0.5) // GRID * GRID, GRID) for side in size)
    return width, height
