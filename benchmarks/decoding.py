"""Decode clips of several lengths into files, to see that memory does not grow with them.

python benchmarks/decoding.py [--narrower 4] [--size 224 128] [--seconds 1 5 20]

The picture decoder as published, its layers so many times narrower; random weights and latents; frames
written as they come, each length in a process of its own. Printed are MLX's peaks in the stages sound and
picture, latents of the length included and their bytes beside it, what the process took at its peak beyond
what it had taken before, and seconds; then how far the peaks lie apart. The sound decoder is the embedded
one: a second of sound is less than its window.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import helpers.openblas  # noqa: F401  before MLX
import mlx.core as mx

from mlx_happyhorse import HappyHorse
from mlx_happyhorse.convert import tiny
from mlx_happyhorse.geometry import FPS
from mlx_happyhorse.models.turbo_decoder import TurboDecoderConfig
from mlx_happyhorse.outputs.latents import Latents
from mlx_happyhorse.pipeline.state import State
from mlx_happyhorse.pipeline.writer import ClipWriter

MIB = 2**20
STAGES = ("sound", "picture")


class Decoded(NamedTuple):
    latents: int  # bytes
    peaks: dict[str, int]
    process: int
    seconds: float
    frames: int


def settings_of_a_clip(horse: HappyHorse) -> dict[str, Any]:
    states = list(horse.stream("A red ball bounces.", seconds=0.2, width=64, height=32, steps=1, seed=0))
    latents = states[-1].latents
    assert latents is not None
    return latents.settings


def random_latents(settings: dict[str, Any], seconds: float, width: int, height: int) -> Latents:
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
    peaks: dict[str, int] = {taken.stage: taken.bytes for taken in state.taken}
    return Decoded(size, peaks, process_peak() - before, time.monotonic() - started, frames)


def write(states: Iterable[State], path: Path) -> tuple[State, int]:
    """Write the clip as the command line does; return the last state and the number of frames."""
    writer = ClipWriter(str(path))
    for state in states:
        writer.add(state)
    return state, writer.save().shape[0]


def process_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def show(model: Path, width: int, height: int, narrower: int, lengths: Sequence[float]) -> None:
    print(f"{width}×{height}, {narrower} times narrower than published")
    print("      s  frames  latents MiB  sound MiB  picture MiB  process MiB  seconds")
    spawn, found = multiprocessing.get_context("spawn"), []
    for seconds in lengths:
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--narrower", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(224, 128), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--seconds", type=float, nargs="+", default=(1, 5, 20))
    options = parser.parse_args(arguments)
    width, height = options.size
    with tempfile.TemporaryDirectory() as home:
        os.environ["HAPPYHORSE_HOME"] = home
        write_model(Path(home) / "model", options.narrower)
        show(Path(home) / "model", width, height, options.narrower, options.seconds)


if __name__ == "__main__":
    main()
