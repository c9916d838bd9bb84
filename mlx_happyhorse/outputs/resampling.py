"""The audio VAE's sample rate → the clip's."""

from __future__ import annotations

import numpy as np


def to_44100(samples: np.ndarray) -> np.ndarray:
    """Samples (n, channels) at 51,200 Hz → (n · 441 // 512, channels), by cutting the spectrum."""
    n, target = len(samples), len(samples) * 441 // 512
    spectrum = np.fft.rfft(samples, axis=0)[: target // 2 + 1]
    if target % 2 == 0:
        spectrum[-1] *= 2  # the highest frequency stands for its mirror image as well
    return (np.fft.irfft(spectrum, target, axis=0) * (target / n)).astype(np.float32)
