"""A run's states with what its stages took, and the seconds that are left."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import mlx.core as mx

from ..planning import timings
from ..planning.hardware import this_machine
from ..planning.plan import Plan, StagePlan
from ..planning.planner import SAVING
from ..planning.stage import StageName
from ..planning.timings import Timing
from .state import StageStats, State


@dataclass
class StageProgress:
    """A stage after `step` of `steps`: its seconds and peak bytes so far, and step and seconds at its first
    state."""

    step: int = 0
    steps: int = 1
    seconds: float = 0.0
    bytes: int = 0
    first: tuple[int, float] | None = None

    def add(self, seconds: float, bytes: int) -> None:
        self.seconds += seconds
        self.bytes = max(self.bytes, bytes)
        self.first = self.first or (self.step, self.seconds)

    def left(self, planned: StagePlan) -> float:
        """Return the seconds left, from the steps after the first.

        The first takes longer: weights are read, and a frame passes the whole decoder before it shows. Where
        it is the only one so far it still tells more than the plan."""
        step, seconds = self.first or (0, 0.0)
        if self.step > step:
            pace = (self.seconds - seconds) / (self.step - step)
        elif self.step and planned.name != StageName.PICTURE:
            pace = self.seconds / self.step
        else:
            pace = planned.seconds / self.steps
        return pace * (self.steps - self.step)


def observed(states: Iterator[State], plan: Plan) -> Generator[State, None, None]:
    """Pass a run's states on, with statistics and the seconds left; record the times of a finished run."""
    seen: defaultdict[str, StageProgress] = defaultdict(StageProgress)
    started = time.monotonic()
    mx.reset_peak_memory()
    for state in states:
        now = time.monotonic()
        progress = seen[state.stage]
        progress.step, progress.steps = state.step, state.steps
        if state.step:
            progress.add(now - started, mx.get_peak_memory())
        state.taken = tuple(StageStats(StageName(s), p.seconds, p.bytes) for s, p in seen.items() if p.first)
        state.seconds_left = sum(seen[stage.name].left(stage) for stage in plan.stages)
        state.memory, state.plan = mx.get_active_memory(), plan
        yield state
        if not state.step:
            mx.reset_peak_memory()
        del state
        started = time.monotonic()
    timed = [Timing(stage.kind, stage.work, seen[stage.name].seconds) for stage in plan.stages]
    timings.record(plan.machine.name, [timing for timing in timed if timing.seconds])


def record_saving(pixels: int, seconds: float) -> None:
    """Record the seconds that it took to encode a clip of so many pixels."""
    timings.record(this_machine().name, [Timing(SAVING, pixels, seconds)])
