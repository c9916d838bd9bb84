"""How near previews come to the decoded frames, shrunk to their size, and what they cost beside a step.

python benchmarks/preview.py

For both kinds of decoder at toy size, with random weights: those of `tiny` and of the golden Wan decoder.
Errors are root mean squares in steps of 255, on clips that the map has not learned from; "one colour" is the
error of a picture of the frames' mean colour.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["HAPPYHORSE_HOME"] = tempfile.mkdtemp()
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from helpers.models import golden_model

from mlx_happyhorse import HappyHorse, State
from mlx_happyhorse.notes import listening
from mlx_happyhorse.pipeline.preview import Colours

CLIP = {"seconds": 1, "width": 128, "height": 96, "steps": 4}
LEARNED = 4


def clip_of(horse: HappyHorse, seed: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """The last preview, the decoded colours of the same cells, and seconds by step."""
    colours, times, started = Colours(), [], time.monotonic()
    shown: State | None = None
    for state in horse.stream("A ball.", seed=seed, keep_frames=False, preview=True, **CLIP):
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


def show(name: str, horse: HappyHorse) -> None:
    for seed in range(LEARNED + 1):
        preview, decoded, times = clip_of(horse, seed)
        if seed in (0, LEARNED):
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


if __name__ == "__main__":
    with listening(lambda note: None):
        show("turbo", HappyHorse.load("tiny"))
        show("wan", golden_model("distill", turbo=False))
