"""From the base model's latents to those that super-resolution starts with."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from .sampling import Draw

NOISE_INDEX = 220
SOUND_NOISE = 0.7  # the share of noise in the sound that super-resolution is shown


def signal_levels(steps: int = 1000) -> np.ndarray:
    """How much of the clean signal is left at each noise index: a schedule of √β's, linear from 0.00085
    to 0.012, rescaled to end in pure noise (arXiv 2305.08891)."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, steps) ** 2
    levels = np.sqrt(np.cumprod(1 - betas))
    return (levels - levels[-1]) * levels[0] / (levels[0] - levels[-1])


def start(
    video: mx.array, audio: mx.array, height: int, width: int, draw: Draw, align_corners: bool = True
) -> tuple[mx.array, mx.array]:
    """Base latents (frames, h, w, 48) and (n, 64) → where super-resolution starts, (frames, height,
    width, 48) and (n, 64). Draws the video's noise, then the audio's."""
    level = float(signal_levels()[NOISE_INDEX])
    video = resize(video, height, width, align_corners)
    video = level * video + (1 - level**2) ** 0.5 * draw(video.shape)
    return video, SOUND_NOISE * draw(audio.shape) + (1 - SOUND_NOISE) * audio


def resize(video: mx.array, height: int, width: int, align_corners: bool = True) -> mx.array:
    """Linear interpolation of (frames, h, w, c). With `align_corners` the corner pixels keep their
    place, as in the reference; without, the picture's edges do."""
    frames, h, w, channels = video.shape
    rows = _interpolation(h, height, align_corners) @ video.reshape(frames, h, w * channels)
    return _interpolation(w, width, align_corners) @ rows.reshape(frames, height, w, channels)


def _interpolation(size: int, target: int, align_corners: bool) -> mx.array:
    """The matrix (target, size) that interpolates along one axis."""
    places = np.linspace(0, size - 1, target)
    if not align_corners:
        places = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    return mx.array(np.maximum(1 - np.abs(places[:, None] - np.arange(size)), 0), mx.float32)
