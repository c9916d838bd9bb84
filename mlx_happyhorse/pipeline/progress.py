"""A run while it lasts: what its stages take, beside what was planned, and how long is left."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import mlx.core as mx

from ..planning import timings
from ..planning.hardware import this_machine
from ..planning.plan import SAVING, Plan, Stage
from ..planning.timings import Timing
from .state import State, Taken


@dataclass
class Progress:
    """Of a stage: the step it is after, what it took until now, and where it was after its first state."""

    step: int = 0
    steps: int = 1
    seconds: float = 0.0
    bytes: int = 0
    first: tuple[int, float] | None = None

    def add(self, seconds: float, bytes: int) -> None:
        self.seconds += seconds
        self.bytes = max(self.bytes, bytes)
        self.first = self.first or (self.step, self.seconds)

    def left(self, planned: Stage) -> float:
        """Seconds, by the steps after the first one, which takes longer: weights are read, and a frame goes
        through the whole decoder before it shows. The first of few tells more than a plan."""
        step, seconds = self.first or (0, 0.0)
        if self.step > step:
            pace = (self.seconds - seconds) / (self.step - step)
        elif self.step and planned.name != "picture":
            pace = self.seconds / self.step
        else:
            pace = planned.seconds / self.steps
        return pace * (self.steps - self.step)


def observed(states: Iterator[State], plan: Plan) -> Generator[State, None, None]:
    """Passes a run's states on with what its stages took and how many seconds are left; records the times
    of those that were finished, so that the next plan is better."""
    seen: defaultdict[str, Progress] = defaultdict(Progress)
    started = time.monotonic()
    mx.reset_peak_memory()
    for state in states:
        now = time.monotonic()
        progress = seen[state.stage]
        progress.step, progress.steps = state.step, state.steps
        if state.step:
            progress.add(now - started, mx.get_peak_memory())
        state.taken = tuple(Taken(name, p.seconds, p.bytes) for name, p in seen.items() if p.first)
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
    """How long it took to write a clip of so many pixels."""
    timings.record(this_machine().name, [Timing(SAVING, pixels, seconds)])
