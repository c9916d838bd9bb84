"""Decodes clips of several lengths into files, to see that memory does not grow with them.

python benchmarks/decoding.py [NARROWER [WIDTH HEIGHT]]

The picture decoder as published, its layers NARROWER (4) times narrower; random weights and latents; frames
written as they come, each length in a process of its own. Printed are MLX's peaks in the stages sound and
picture, latents of the length included and their bytes beside it, what the process took at its peak beyond
what it had taken before, and seconds; then how far the peaks lie apart. The sound decoder is the embedded
one: a second of sound is less than its window.
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
from mlx_happyhorse.convert import tiny
from mlx_happyhorse.geometry import FPS
from mlx_happyhorse.models.turbo_decoder import TurboDecoderConfig
from mlx_happyhorse.outputs.latents import Latents
from mlx_happyhorse.outputs.mp4 import Mp4Writer
from mlx_happyhorse.pipeline.state import State

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


def write_model(folder: Path, narrower: int) -> None:
    published = TurboDecoderConfig()
    widths = [width // narrower for width in published.widths]
    decoder = {"type": "turbo_decoder", "widths": widths, "layers": list(published.layers)}
    tiny.write(folder, tiny.NETWORKS | {"video_decoder": decoder})


def decode(model: Path, seconds: float, width: int, height: int) -> Decoded:
    warnings.simplefilter("ignore")
    horse = HappyHorse.load(model)
    latents = random_latents(settings_of_a_clip(horse), seconds, width, height)
    size, before = latents.video.nbytes + latents.audio.nbytes, process_peak()
    started = time.monotonic()
    states = horse.finish(latents, keep_frames=False, force=True)
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
            film = film or Mp4Writer(path, sound, state.settings)
            film.add(state.frames)
    film.save()
    film.discard()
    return state, film.shape[0]


def process_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def show(model: Path, width: int, height: int, narrower: int) -> None:
    print(f"{width}×{height}, {narrower} times narrower than published")
    print("      s  frames  latents MiB  sound MiB  picture MiB  process MiB  seconds")
    spawn, found = multiprocessing.get_context("spawn"), []
    for seconds in SECONDS:
        with ProcessPoolExecutor(1, spawn) as alone:
            done = alone.submit(decode, model, seconds, width, height).result()
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
    narrower, width, height = [int(word) for word in sys.argv[1:]] + [4, 224, 128][len(sys.argv) - 1 :]
    with tempfile.TemporaryDirectory() as home:
        os.environ["HAPPYHORSE_HOME"] = home
        write_model(Path(home) / "model", narrower)
        show(Path(home) / "model", width, height, narrower)
