"""A finished clip: frames and audio."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RequestError
from ..geometry import FPS, SAMPLE_RATE
from .mp4 import Mp4Writer


@dataclass
class Clip:
    """A clip: `video` (frames, height, width, 3) uint8, `audio` (samples, 2) float32 about [-1, 1].

    Both may be NumPy or MLX arrays, and become NumPy's. Raise RequestError for other arrays, and for odd
    sizes, which H.264 cannot store."""

    video: np.ndarray
    audio: np.ndarray
    settings: dict[str, Any] = field(default_factory=dict)
    fps: int = FPS
    sample_rate: int = SAMPLE_RATE

    def __post_init__(self) -> None:
        self.video, self.audio = np.asarray(self.video), np.asarray(self.audio)
        video, audio = self.video, self.audio
        if video.ndim != 4 or video.dtype != np.uint8 or not video.size or video.shape[3] != 3:
            raise RequestError("a clip's video must be uint8 of shape (frames, height, width, 3).")
        if video.shape[1] % 2 or video.shape[2] % 2:
            raise RequestError("a clip's height and width must be even.")
        if audio.ndim != 2 or audio.dtype != np.float32 or audio.shape[1] != 2:
            raise RequestError("a clip's audio must be float32 of shape (samples, 2).")

    def save(self, path: str | Path, overwrite: bool = True) -> Path:
        """Write an mp4 (H.264, AAC) with the settings inside, and return its path. Without `overwrite`, the
        name gets a number where it is taken.

        Raise RequestError for a name that cannot be used, HappyHorseError where writing fails (a full disk);
        no partial file is left."""
        writer = Mp4Writer(path, self.audio, self.settings)
        try:
            writer.add(self.video)
            return writer.save(overwrite)
        finally:
            writer.discard()
