"""What a run made, looked at before it is kept: a machine out of memory may go on with zeros or NaN."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ..errors import BrokenRun

CAUSES = "The memory may have run out, or the weights be damaged: look at them with happyhorse check MODEL."
OVERFLOW = "float16 may be too narrow for these weights: choose bfloat16."


def check_latents(where: str, *latents: mx.array, dtype: mx.Dtype | None = None) -> None:
    """Raises BrokenRun for latents that are not finite, or all the same, in any frame of a video's (frames,
    h, w, channels). `dtype` is what they were computed in."""
    for array in latents:
        if not mx.isfinite(array).all().item():
            why = CAUSES if dtype is None or dtype != mx.float16 else OVERFLOW
            raise BrokenRun(f"{where}: the latents are no numbers any more. {why}")
        flat = array.reshape(len(array) if array.ndim == 4 else 1, -1)
        if flat.shape[1] > 1 and (flat.max(1) == flat.min(1)).any().item():
            raise BrokenRun(f"{where}: all latents are the same. {CAUSES}")


def check_velocity(velocity: mx.array) -> None:
    """Raises BrokenRun for one that is the same everywhere: zeros would leave the noise as it is."""
    if velocity.size > 1 and (velocity.max() == velocity.min()).item():
        raise BrokenRun(f"the transformer made the same of everything. {CAUSES}")


def check_sound(samples: np.ndarray) -> None:
    """Samples (n, 2). Raises BrokenRun for what is no sound; quiet is not the same as nothing."""
    if not np.isfinite(samples).all():
        raise BrokenRun(f"the sound holds what is no number. {CAUSES}")
    if samples.max() == samples.min():
        raise BrokenRun(f"the sound is perfectly silent, as no decoded sound is. {CAUSES}")


def check_pixels(pixels: mx.array) -> None:
    """Raises BrokenRun for pixels that are no numbers."""
    if not mx.isfinite(pixels).all().item():
        raise BrokenRun(f"the picture holds what is no number. {CAUSES}")


class Contrast:
    """How many of the frames seen so far show anything."""

    def __init__(self) -> None:
        self.frames = self.empty = 0

    def see(self, frames: np.ndarray) -> None:
        """Frames (some, height, width, 3)."""
        pixels = frames.reshape(len(frames), -1)
        self.frames += len(frames)
        self.empty += int((pixels.max(1) == pixels.min(1)).sum())

    def check(self) -> None:
        """Raises BrokenRun if most frames are of one colour to the last pixel."""
        if 2 * self.empty > self.frames:
            raise BrokenRun(f"{self.empty} of {self.frames} frames are of one colour throughout. {CAUSES}")
