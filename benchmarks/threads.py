"""Generate on several threads at once, and advance runs from changing threads.

python benchmarks/threads.py [--seconds 10]

Clips must be those of a single thread, and MLX's limits afterwards as before.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_happyhorse import Clip, HappyHorse
from mlx_happyhorse.notes import listening
from mlx_happyhorse.runtime.memory import WINOGRAD

SMALL: dict[str, Any] = {"seconds": 0.2, "width": 64, "height": 32, "steps": 2}
SEEDS = 4


def limits() -> tuple[int, str | None]:
    now = mx.set_cache_limit(0)
    mx.set_cache_limit(now)
    return now, os.environ.get(WINOGRAD)


def generate(horse: HappyHorse, seed: int) -> Clip:
    with listening(lambda note: None):
        return horse.generate("a ball", seed=seed, **SMALL)


def hand_around(horse: HappyHorse, seed: int) -> Clip:
    """Every state on a thread of its own."""
    with listening(lambda note: None):
        states = horse.stream("a ball", seed=seed, **SMALL)
    clips: list[Clip] = []
    going = True

    def advance() -> None:
        nonlocal going
        with listening(lambda note: None):
            state = next(states, None)
        going = state is not None
        if state is not None and state.clip is not None:
            clips.append(state.clip)

    while going:
        thread = threading.Thread(target=advance)
        thread.start()
        thread.join()
    return clips[0]


def compare(
    first: int,
    horse: HappyHorse,
    make: Callable[[HappyHorse, int], Clip],
    expected: list[np.ndarray],
    stop: float,
    made: list[bool],
) -> None:
    """Make one clip after another, beginning with seed `first`; note in `made` whether each is right."""
    seed = first
    while time.monotonic() < stop:
        made.append(np.array_equal(make(horse, seed).video, expected[seed]))
        seed = (seed + 1) % SEEDS


def measure(seconds: float) -> None:
    horse, before = HappyHorse.load("tiny"), limits()
    expected = [generate(horse, seed).video for seed in range(SEEDS)]
    for make in (generate, hand_around):
        made: list[bool] = []
        stop = time.monotonic() + seconds

        work = (horse, make, expected, stop, made)
        threads = [threading.Thread(target=compare, args=(first, *work)) for first in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wrong = made.count(False)
        print(f"{make.__name__:<12} {len(made)} clips by 2 threads in {seconds:.0f} s, {wrong} wrong")
    print("MLX's limits are as before" if limits() == before else f"limits: {before} → {limits()}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    with tempfile.TemporaryDirectory() as home:
        os.environ["HAPPYHORSE_HOME"] = home
        measure(parser.parse_args(arguments).seconds)


if __name__ == "__main__":
    main()
