"""Make 200 short clips in one process, and stop runs in the middle, to see whether memory comes back.

python benchmarks/many_clips.py [CLIPS] [--stages STAGE ...]

The embedded model. Printed are MLX's active memory and the process's resident memory after a tenth of the
clips and after all. Then, for each stage of a run with a picture, a recording and upscaling, and for the
sound of one without a recording: what is more in MLX's memory than before, after a run was ended at the
stage's first state and at its second, by closing it, by dropping the last reference to it, by stopping it,
and by a KeyboardInterrupt in its calculations. The garbage collector is off meanwhile; what it finds is
printed.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import helpers.openblas  # noqa: F401  before MLX
import mlx.core as mx
import numpy as np

from mlx_happyhorse import HappyHorse, State, Stopped
from mlx_happyhorse.runtime.runs import States

SIZE: dict[str, Any] = {"width": 64, "height": 32, "seconds": 0.2, "steps": 2}
UPSCALED = {"upscale": "540p", "upscale_size": (128, 64), "upscale_steps": 2}
STAGES = ("text", "image", "voice", "denoise", "upscale", "sound", "picture")
STATM = Path("/proc/self/statm")
MIB = 2**20

Run = States[State]
Stop = Callable[[Run], None]


def resident() -> int | None:
    """Bytes of this process in memory, where the system tells."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if STATM.exists() else None


def many(horse: HappyHorse, clips: int) -> None:
    started = time.monotonic()
    early: tuple[int, int | None] = (0, None)
    for i in range(clips):
        horse.generate(f"A red ball bounces, take {i:04}.", seed=i, **SIZE)
        if i + 1 == max(clips // 10, 1):
            early = mx.get_active_memory(), resident()
            _show(i + 1, early)
    late = mx.get_active_memory(), resident()
    _show(clips, late)
    changes = [
        f"{100 * (b / a - 1):+.2f} %" if a and b else "unknown" for a, b in zip(early, late, strict=True)
    ]
    print(f"  MLX {changes[0]}, process {changes[1]}, in {time.monotonic() - started:.0f} s", flush=True)


def _show(clips: int, memory: tuple[int, int | None]) -> None:
    active, process = memory
    process_mib = "unknown" if process is None else f"{process / MIB:.1f} MiB"
    print(f"  after {clips:4} clips: MLX {active:,} bytes, process {process_mib}", flush=True)


def close(states: Run) -> None:
    states.close()


def drop(states: Run) -> None:
    """The caller's is the last reference."""


def stop(states: Run) -> None:
    states.stop()
    with suppress(Stopped, StopIteration):
        next(states)


def interrupt(states: Run) -> None:
    """At the next thing that is calculated, if anything is."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with patch.object(mx, "eval", interrupted), suppress(KeyboardInterrupt, StopIteration):
        next(states)


STOPS: tuple[Stop, ...] = (close, drop, stop, interrupt)


def left_by(horse: HappyHorse, stage: str, count: int, end: Stop, inputs: dict[str, Any]) -> int | None:
    """Bytes; None if the stage has no `count` states."""
    before = mx.get_active_memory()
    reached = _run_until(horse, stage, count, end, inputs)
    return mx.get_active_memory() - before if reached else None


def _run_until(horse: HappyHorse, stage: str, count: int, end: Stop, inputs: dict[str, Any]) -> bool:
    seen = 0
    states = horse.stream(f"A ball, {stage} {count} {end.__name__} {len(inputs)}.", seed=0, **inputs)
    for state in states:
        seen += state.stage == stage
        if seen == count:
            del state
            end(states)
            return True
    return False


def stopped(horse: HappyHorse, stages: Sequence[str], inputs: dict[str, Any]) -> None:
    for stage in stages:
        for count in (1, 2):
            found = {end.__name__: left_by(horse, stage, count, end, inputs) for end in STOPS}
            print(f"  {stage:8} state {count}: ", end="")
            print(
                ", ".join(f"{name} {more:+,}" for name, more in found.items() if more is not None), flush=True
            )


def measure(clips: int, stages: Sequence[str]) -> None:
    horse = HappyHorse.load("tiny")
    print(f"{clips} clips of {SIZE['seconds']} s, {SIZE['width']}×{SIZE['height']}")
    many(horse, clips)
    noise = np.random.default_rng(0)
    picture = noise.integers(0, 256, (32, 64, 3), np.uint8)
    voice = noise.normal(scale=0.1, size=44_100 // 5).astype(np.float32), 44_100
    all_stages = SIZE | UPSCALED | {"image": picture, "audio": voice}
    for inputs in (all_stages, SIZE):
        horse.generate("Once, to have in memory whatever stays.", seed=0, **inputs)
    gc.collect()
    gc.disable()
    before = mx.get_active_memory()
    print(f"stopped runs: bytes beyond what MLX held before, of {before:,}")
    stopped(horse, stages, all_stages)
    print("  without picture, recording and upscaling")
    stopped(horse, [stage for stage in stages if stage in ("sound", "picture")], SIZE)
    gc.enable()
    after, found = mx.get_active_memory(), gc.collect()
    print(f"  all in all {after - before:+,}; the garbage collector then found {found} objects, ", end="")
    print(f"which held {after - mx.get_active_memory():,} bytes")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clips", nargs="?", type=int, default=200)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, metavar="STAGE")
    options = parser.parse_args(arguments)
    with warnings.catch_warnings(action="ignore"), tempfile.TemporaryDirectory() as home:
        os.environ["HAPPYHORSE_HOME"] = home
        measure(options.clips, options.stages)


if __name__ == "__main__":
    main()
