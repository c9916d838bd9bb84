"""The latents that super-resolution starts from, made of the base model's."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from .sampling import Draw

NOISE_INDEX = 220  # of 1000, as in the reference
AUDIO_NOISE = 0.7  # share of noise in the audio latents of super-resolution, as in the reference


def signal_levels(steps: int = 1000) -> np.ndarray:
    """Return the share of clean signal at each noise index: √β is linear from √0.00085 to √0.012, and levels
    are rescaled to end in pure noise (arXiv 2305.08891)."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, steps) ** 2
    levels = np.sqrt(np.cumprod(1 - betas))
    return (levels - levels[-1]) * levels[0] / (levels[0] - levels[-1])


def start(
    video: mx.array, audio: mx.array, height: int, width: int, draw: Draw, align_corners: bool = True
) -> tuple[mx.array, mx.array]:
    """Return the start of super-resolution, (frames, height, width, 48) and (n, 64), from base latents
    (frames, h, w, 48) and (n, 64). Draw the video's noise, then the audio's."""
    level = float(signal_levels()[NOISE_INDEX])
    video = resize(video, height, width, align_corners)
    video = level * video + (1 - level**2) ** 0.5 * draw(video.shape)
    return video, AUDIO_NOISE * draw(audio.shape) + (1 - AUDIO_NOISE) * audio


def resize(video: mx.array, height: int, width: int, align_corners: bool = True) -> mx.array:
    """Interpolate (frames, h, w, c) linearly to (frames, height, width, c). `align_corners`, as in the
    reference, aligns the centres of the corner pixels; without it, the picture's edges are aligned."""
    frames, h, w, channels = video.shape
    rows = _interpolation(h, height, align_corners) @ video.reshape(frames, h, w * channels)
    return _interpolation(w, width, align_corners) @ rows.reshape(frames, height, w, channels)


def _interpolation(size: int, target: int, align_corners: bool) -> mx.array:
    """Return the matrix (target, size) that interpolates along one axis."""
    places = np.linspace(0, size - 1, target)
    if not align_corners:
        places = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    return mx.array(np.maximum(1 - np.abs(places[:, None] - np.arange(size)), 0), mx.float32)
