"""Recordings for tests."""

from pathlib import Path
from typing import Any

import av
import numpy as np


def speech(seconds: float, rate: int = 48_000, seed: int = 0) -> np.ndarray:
    """Syllables of noise over a tone, (n,) float32: nothing in it repeats."""
    t = np.arange(int(seconds * rate)) / rate
    random = np.random.default_rng(seed)
    loud = np.interp(t, np.arange(int(seconds * 10) + 3) / 10, random.random(int(seconds * 10) + 3))
    voice = np.sin(2 * np.pi * 180 * t) + np.sin(2 * np.pi * 700 * t + 3 * np.sin(2 * np.pi * 5 * t))
    return (0.2 * loud * (voice + 0.2 * random.standard_normal(len(t)))).astype(np.float32)


def write(
    path: str | Path, samples: np.ndarray, rate: int = 48_000, codec: str = "pcm_s16le", layout: str = "mono"
) -> str | Path:
    """Samples (n,) or (channels, n) as a sound file; its ending says of what kind."""
    planes = np.atleast_2d(samples).astype(np.float32)
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=rate, layout=layout)
        for start in range(0, planes.shape[1], rate):
            chunk = np.ascontiguousarray(planes[:, start : start + rate])
            frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def heard_in(path: str | Path, rate: int = 44_100) -> np.ndarray:
    """The sound of a video file, (samples, 2)."""
    with av.open(str(path)) as file:
        resampler = av.AudioResampler("fltp", "stereo", rate)
        frames = [f for frame in file.decode(audio=0) for f in resampler.resample(frame)]
        frames += resampler.resample(None)
        return np.concatenate([f.to_ndarray().T for f in frames])


def best_lag(heard: np.ndarray, said: np.ndarray, most: int = 4000) -> tuple[int, float]:
    """The shift at which two sounds (n,) resemble each other most, and their correlation there."""
    n = min(len(heard), len(said))
    size = 2 * n
    product = np.fft.irfft(np.fft.rfft(heard[:n], size) * np.conj(np.fft.rfft(said[:n], size)), size)
    lags = np.concatenate([np.arange(most + 1), np.arange(-most, 0)])
    lag = int(lags[np.argmax(product[lags])])
    a, b = heard[max(lag, 0) : n + min(lag, 0)], said[max(-lag, 0) : n - max(lag, 0)]
    return lag, float(np.corrcoef(a, b)[0, 1])
