"""Makes 200 short clips in one process, and stops runs in the middle, to see whether memory comes back.

python benchmarks/many_clips.py [CLIPS]

The embedded model. Printed are MLX's active memory and the process's resident memory after a tenth of the
clips and after all. Then, for each stage of a run with a picture, a recording and upscaling, and for the
sound of one without a recording: what is more in MLX's memory than before, after a run was stopped at the
stage's first state and at its second, by closing it, by letting go of it, by a KeyboardInterrupt thrown in,
and by one that comes in its calculations. The garbage collector is off meanwhile; what it finds is printed.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

with suppress(OSError):
    ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)

import mlx.core as mx
import numpy as np

from mlx_happyhorse import HappyHorse

SIZE: dict[str, Any] = {"width": 64, "height": 32, "seconds": 0.2, "steps": 2}
UPSCALED = {"upscale": "540p", "upscale_size": (128, 64), "upscale_steps": 2}
STAGES = ("text", "image", "voice", "denoise", "upscale", "sound", "picture")
STATM = Path("/proc/self/statm")
MIB = 2**20

States = Generator
Stop = Callable[[States], None]


def resident() -> int | None:
    """Bytes of this process in memory, where the system tells."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if STATM.exists() else None


def many(horse: HappyHorse, clips: int) -> None:
    started, early = time.monotonic(), (0, None)
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


def close(states: States) -> None:
    states.close()


def let_go(states: States) -> None:
    """The caller's is the last reference."""


def throw(states: States) -> None:
    with suppress(KeyboardInterrupt):
        states.throw(KeyboardInterrupt)


def interrupt(states: States) -> None:
    """At the next thing that is calculated, if anything is."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with patch.object(mx, "eval", interrupted), suppress(KeyboardInterrupt, StopIteration):
        next(states)


STOPS: tuple[Stop, ...] = (close, let_go, throw, interrupt)


def left_by(horse: HappyHorse, stage: str, count: int, stop: Stop, inputs: dict[str, Any]) -> int | None:
    """Bytes; None if the stage has no `count` states."""
    before = mx.get_active_memory()
    reached = _run_until(horse, stage, count, stop, inputs)
    return mx.get_active_memory() - before if reached else None


def _run_until(horse: HappyHorse, stage: str, count: int, stop: Stop, inputs: dict[str, Any]) -> bool:
    seen = 0
    states = horse.stream(f"A ball, {stage} {count} {stop.__name__} {len(inputs)}.", seed=0, **inputs)
    for state in states:
        seen += state.stage == stage
        if seen == count:
            del state
            stop(states)
            return True
    return False


def stopped(horse: HappyHorse, stages: tuple[str, ...], inputs: dict[str, Any]) -> None:
    for stage in stages:
        for count in (1, 2):
            found = {stop.__name__: left_by(horse, stage, count, stop, inputs) for stop in STOPS}
            print(f"  {stage:8} state {count}: ", end="")
            print(
                ", ".join(f"{name} {more:+,}" for name, more in found.items() if more is not None), flush=True
            )


def main(clips: int) -> None:
    warnings.simplefilter("ignore")
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
    stopped(horse, STAGES, all_stages)
    print("  without picture, recording and upscaling")
    stopped(horse, ("sound", "picture"), SIZE)
    after, found = mx.get_active_memory(), gc.collect()
    print(f"  all in all {after - before:+,}; the garbage collector then found {found} objects, ", end="")
    print(f"which held {after - mx.get_active_memory():,} bytes")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ["HAPPYHORSE_HOME"] = home
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
