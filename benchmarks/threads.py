"""Threads that generate at once, and runs that are advanced by changing threads: right clips, MLX's limits as
before.

python benchmarks/threads.py [--seconds 10]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time

os.environ["HAPPYHORSE_HOME"] = tempfile.mkdtemp()

import mlx.core as mx
import numpy as np

from mlx_happyhorse import Clip, HappyHorse
from mlx_happyhorse.notes import listening
from mlx_happyhorse.runtime.memory import WINOGRAD

SMALL = {"seconds": 0.2, "width": 64, "height": 32, "steps": 2}
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    seconds = parser.parse_args().seconds
    horse, before = HappyHorse.load("tiny"), limits()
    expected = [generate(horse, seed).video for seed in range(SEEDS)]
    for make in (generate, hand_around):
        made: list[bool] = []
        stop = time.monotonic() + seconds

        def work(offset: int, make=make, made=made, stop=stop) -> None:  # type: ignore[no-untyped-def]
            count = offset
            while time.monotonic() < stop:
                seed = count % SEEDS
                made.append(np.array_equal(make(horse, seed).video, expected[seed]))
                count += 1

        threads = [threading.Thread(target=work, args=(offset,)) for offset in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wrong = made.count(False)
        print(f"{make.__name__:<12} {len(made)} clips by 2 threads in {seconds:.0f} s, {wrong} wrong")
    print("MLX's limits are as before" if limits() == before else f"limits: {before} → {limits()}")


if __name__ == "__main__":
    main()
