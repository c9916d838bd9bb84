"""A run while it lasts: what its stages take, beside what was planned, and how long is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx

from . import timings
from .machine import this_machine
from .plan import SAVING, Plan
from .timings import Timing

if TYPE_CHECKING:
    from .run import State


class Taken(NamedTuple):
    """What a stage took: seconds, and bytes at its peak, as MLX counts them."""

    stage: str
    seconds: float
    bytes: int


def observed(states: Iterator[State], plan: Plan) -> Iterator[State]:
    """Passes a run's states on with what its stages took and how many seconds are left; records the times
    of those that were finished, so that the next plan is better."""
    seconds: dict[str, float] = {}
    peaks: dict[str, int] = {}
    steps: dict[str, tuple[int, int]] = {}
    begun: dict[str, tuple[int, float]] = {}  # after the first steps, which take longer
    started = time.monotonic()
    mx.reset_peak_memory()
    for state in states:
        now = time.monotonic()
        if state.step:
            seconds[state.stage] = seconds.get(state.stage, 0) + now - started
            peaks[state.stage] = max(peaks.get(state.stage, 0), mx.get_peak_memory())
            begun.setdefault(state.stage, (state.step, seconds[state.stage]))
        steps[state.stage] = state.step, state.steps
        state.taken = tuple(Taken(stage, s, peaks[stage]) for stage, s in seconds.items())
        state.seconds_left = _left(plan, seconds, steps, begun)
        state.memory, state.plan = mx.get_active_memory(), plan
        yield state
        if not state.step:
            mx.reset_peak_memory()
        del state
        started = time.monotonic()
    timed = [Timing(stage.kind, stage.work, seconds.get(stage.name, 0)) for stage in plan.stages]
    timings.record(plan.machine.name, [timing for timing in timed if timing.seconds])


def record_saving(pixels: int, seconds: float) -> None:
    """How long it took to write a clip of so many pixels."""
    timings.record(this_machine().name, [Timing(SAVING, pixels, seconds)])


def _left(
    plan: Plan,
    seconds: dict[str, float],
    steps: dict[str, tuple[int, int]],
    begun: dict[str, tuple[int, float]],
) -> float:
    """Of the stage in hand by its pace so far, of later ones as planned."""
    left = 0.0
    for stage in plan.stages:
        step, count = steps.get(stage.name, (0, 1))
        first, taken = begun.get(stage.name, (0, 0.0))
        pace = (seconds[stage.name] - taken) / (step - first) if step > first else stage.seconds / count
        left += pace * (count - step)
    return left
