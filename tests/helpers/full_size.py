"""Files of the published size: written from a few random numbers, and evicted from the page cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

NOISE = 1 << 22  # numbers that are written again and again


def normal_noise() -> np.ndarray:
    return np.random.default_rng(0).normal(scale=0.02, size=NOISE).astype(np.float32)


def as_bytes(values: np.ndarray, dtype: str) -> bytes:
    """Return fp32 numbers as F32 or, cut off, as BF16."""
    return ((values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else values).tobytes()


def fill(file: BinaryIO, size: int, data: bytes) -> None:
    """Write `size` bytes, `data` over and over."""
    while size > 0:
        size -= file.write(data[:size])


def evict(file: Path) -> None:
    """Evict a file from the page cache, where the system can, so that it is read from the disk."""
    if hasattr(os, "posix_fadvise"):
        with file.open("rb") as data:
            os.fsync(data.fileno())
            os.posix_fadvise(data.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
