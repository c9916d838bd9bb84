"""The audio VAE's sample rate → the clip's."""

from __future__ import annotations

import numpy as np


def to_44100(samples: np.ndarray) -> np.ndarray:
    """Resample (n, channels) from 51,200 Hz to (n · 441 // 512, channels), by cutting the spectrum."""
    n, target = len(samples), len(samples) * 441 // 512
    spectrum = np.fft.rfft(samples, axis=0)[: target // 2 + 1]
    if target % 2 == 0:
        spectrum[-1] *= 2  # the highest frequency also represents its mirror image
    return (np.fft.irfft(spectrum, target, axis=0) * (target / n)).astype(np.float32)
