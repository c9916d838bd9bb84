"""Checks of a run's results before they are saved: out of memory, a GPU may continue with zeros or NaN."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ..errors import BrokenRun

CAUSES = "Memory may have run out, or the weights are damaged: run happyhorse check MODEL."
OVERFLOW = "float16 may be too narrow for these weights: use bfloat16."


def check_latents(where: str, *latents: mx.array, dtype: mx.Dtype | None = None) -> None:
    """Raise BrokenRun for latents (frames, h, w, channels) or (n, channels) that are not finite, or constant:
    a video's in any frame. `dtype` is what they were computed in."""
    for array in latents:
        if not mx.isfinite(array).all().item():
            why = CAUSES if dtype is None or dtype != mx.float16 else OVERFLOW
            raise BrokenRun(f"{where}: the latents contain NaN or infinity. {why}")
        flat = array.reshape(len(array) if array.ndim == 4 else 1, -1)
        if flat.shape[1] > 1 and (flat.max(1) == flat.min(1)).any().item():
            raise BrokenRun(f"{where}: the latents are constant. {CAUSES}")


def check_velocity(velocity: mx.array) -> None:
    """Raise BrokenRun for a constant velocity: zeros would leave the noise as it is."""
    if velocity.size > 1 and (velocity.max() == velocity.min()).item():
        raise BrokenRun(f"the transformer's output is constant. {CAUSES}")


def check_audio(samples: np.ndarray) -> None:
    """Raise BrokenRun for samples (n, 2) that are not finite, or constant; quiet audio passes."""
    if not np.isfinite(samples).all():
        raise BrokenRun(f"the audio contains NaN or infinity. {CAUSES}")
    if samples.max() == samples.min():
        raise BrokenRun(f"the audio is perfectly silent. {CAUSES}")


def check_pixels(pixels: mx.array) -> None:
    """Raise BrokenRun for pixels that are not finite."""
    if not mx.isfinite(pixels).all().item():
        raise BrokenRun(f"the frames contain NaN or infinity. {CAUSES}")


class Contrast:
    """Counts frames, and those of a single colour."""

    def __init__(self) -> None:
        self.frames = self.empty = 0

    def add(self, frames: np.ndarray) -> None:
        """Count frames (n, height, width, 3)."""
        pixels = frames.reshape(len(frames), -1)
        self.frames += len(frames)
        self.empty += int((pixels.max(1) == pixels.min(1)).sum())

    def check(self) -> None:
        """Raise BrokenRun if most frames are of a single colour."""
        if 2 * self.empty > self.frames:
            raise BrokenRun(f"{self.empty} of {self.frames} frames are of a single colour. {CAUSES}")
