"""Print how near previews come to the decoded frames, shrunk to their size, and what they cost beside a step.

python benchmarks/preview.py [--clips 5] [--seconds 1] [--size 128 96]

For both kinds of decoder at toy size, with random weights: those of `tiny` and of the golden Wan decoder.
Errors are root mean squares in steps of 255, on clips that the map has not learned from; "one colour" is the
error of a picture of the frames' mean colour.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from helpers.models import golden_model

from mlx_happyhorse import HappyHorse, State
from mlx_happyhorse.notes import listening
from mlx_happyhorse.pipeline.preview import Colours


def clip_of(horse: HappyHorse, seed: int, clip: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Return the last preview, the decoded colours of the same cells, and the seconds of every step."""
    colours, times, started = Colours(), [], time.monotonic()
    shown: State | None = None
    for state in horse.stream("A ball.", seed=seed, keep_frames=False, preview=True, **clip):
        if state.stage == "denoise":
            times.append(time.monotonic() - started)
        shown = state if state.preview is not None else shown
        if state.frames is not None:
            colours.add(state.frames)
        started = time.monotonic()
    assert shown is not None and shown.preview is not None
    return shown.preview, colours.of_latents(), times[1:]


def rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(error**2)))


def show(name: str, horse: HappyHorse, clips: int, clip: dict[str, Any]) -> None:
    for seed in range(clips):
        preview, decoded, times = clip_of(horse, seed, clip)
        if seed in (0, clips - 1):
            error, plain = rms(preview - decoded), rms(decoded - decoded.mean((0, 1, 2)))
            print(f"{name:<6} after {seed} clips: error {error:5.1f} of 255, one colour {plain:5.1f}")
    kept = horse.kept_preview()
    assert kept is not None
    latents = np.random.default_rng(0).standard_normal((7, 6, 8, horse.latent_channels[0]), np.float32)
    started = time.perf_counter()
    for _ in range(20):
        kept.render(latents)
    each = (time.perf_counter() - started) / 20
    print(f"{name:<6} a preview takes {1000 * each:.1f} ms, a step {1000 * np.mean(times):.0f} ms")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 96), metavar=("WIDTH", "HEIGHT"))
    options = parser.parse_args(arguments)
    clip = {"seconds": options.seconds, "width": options.size[0], "height": options.size[1], "steps": 4}
    with tempfile.TemporaryDirectory() as home, listening(lambda note: None):
        os.environ["HAPPYHORSE_HOME"] = home
        for name, horse in (
            ("turbo", HappyHorse.load("tiny")),
            ("wan", golden_model("distill", turbo=False)),
        ):
            show(name, horse, options.clips, clip)


if __name__ == "__main__":
    main()
