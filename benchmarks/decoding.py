"""Decodes clips of several lengths into files, to see that memory does not grow with them.

python benchmarks/decoding.py [WIDTH HEIGHT]

The embedded model, random latents, frames written as they come, each length in a process of its own. Printed
are MLX's peaks in the stages sound and picture, latents of the length included and their bytes beside it,
what the process took at its peak beyond what it had taken before, and seconds; then how far the peaks lie
apart. First as it is, then with runs of a single frame in every layer of the decoder, as at full size: the
embedded one is so narrow that a run holds a whole window, of which a clip's first is shorter than others.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

with suppress(OSError):
    ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)

import mlx.core as mx

from mlx_happyhorse import HappyHorse
from mlx_happyhorse.latents import Latents
from mlx_happyhorse.media import FPS, Film
from mlx_happyhorse.models import turbo_decoder
from mlx_happyhorse.run import State

SECONDS = (1, 5, 20)
MIB = 2**20
STAGES = ("sound", "picture")


class Decoded(NamedTuple):
    latents: int  # bytes
    peaks: dict[str, int]
    process: int
    seconds: float
    frames: int


def settings_of_a_clip(horse: HappyHorse) -> dict:
    states = list(horse.stream("A red ball bounces.", seconds=0.2, width=64, height=32, steps=1, seed=0))
    latents = states[-1].latents
    assert latents is not None
    return latents.settings


def random_latents(settings: dict, seconds: float, width: int, height: int) -> Latents:
    sounds = round(seconds * FPS) + 1
    video, audio = (
        mx.random.normal(shape, key=mx.random.key(sum(shape)))
        for shape in (((sounds - 1) // 4 + 1, height // 16, width // 16, 48), (sounds, 64))
    )
    mx.eval(video, audio)
    return Latents(video, audio, settings | {"seconds": seconds, "width": width, "height": height})


def decode(seconds: float, width: int, height: int, one_by_one: bool) -> Decoded:
    warnings.simplefilter("ignore")
    if one_by_one:
        turbo_decoder.RUN_ELEMENTS = 1
    horse = HappyHorse.load("tiny")
    latents = random_latents(settings_of_a_clip(horse), seconds, width, height)
    size, before = latents.video.nbytes + latents.audio.nbytes, process_peak()
    started = time.monotonic()
    states = horse.finish(latents, keep_frames=False)
    with tempfile.TemporaryDirectory() as folder:
        state, frames = write(states, Path(folder) / "clip.mp4")
    peaks = {taken.stage: taken.bytes for taken in state.taken}
    return Decoded(size, peaks, process_peak() - before, time.monotonic() - started, frames)


def write(states: object, path: Path) -> tuple[State, int]:
    """As the command line does."""
    film = sound = None
    for state in states:
        sound = state.sound if state.sound is not None else sound
        if state.frames is not None:
            film = film or Film(path, sound, state.settings)
            film.add(state.frames)
    film.save()
    film.drop()
    return state, film.shape[0]


def process_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def show(width: int, height: int, one_by_one: bool) -> None:
    print(f"{width}×{height}, {'runs of one frame' if one_by_one else 'as it is'}")
    print("      s  frames  latents MiB  sound MiB  picture MiB  process MiB  seconds")
    spawn, found = multiprocessing.get_context("spawn"), []
    for seconds in SECONDS:
        with ProcessPoolExecutor(1, spawn) as alone:
            done = alone.submit(decode, seconds, width, height, one_by_one).result()
        found.append(done)
        sizes = done.latents, done.peaks["sound"], done.peaks["picture"], done.process
        a, b, c, d = (size / MIB for size in sizes)
        print(
            f"{seconds:7}{done.frames:8}{a:13.2f}{b:11.2f}{c:13.2f}{d:13.1f}{done.seconds:9.1f}", flush=True
        )
    for stage in STAGES:
        print(f"  {stage}: peaks {_apart([f.peaks[stage] for f in found]):.1f} % apart", end="")
        print(f", {_apart([f.peaks[stage] - f.latents for f in found]):.1f} % without the latents")


def _apart(sizes: list[int]) -> float:
    return 100 * (max(sizes) / min(sizes) - 1)


if __name__ == "__main__":
    size = (int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else (448, 256)
    with tempfile.TemporaryDirectory() as home:
        os.environ["HAPPYHORSE_HOME"] = home
        for one_by_one in (False, True):
            show(*size, one_by_one)
