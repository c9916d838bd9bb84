"""Latents ↔ tokens: packing, coordinates, rotation angles."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ..geometry import PATCH

ROPE_BASE = 10000.0  # as in the reference


def pack(video: mx.array) -> mx.array:
    """Pack latents (frames, h, w, c) into tokens (frames · h/2 · w/2, 4c), each patch channel first."""
    t, h, w, c = video.shape
    x = video.reshape(t, h // PATCH, PATCH, w // PATCH, PATCH, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(-1, c * PATCH**2)


def unpack(tokens: mx.array, shape: tuple[int, ...]) -> mx.array:
    """Unpack tokens to latents of `shape` (frames, h, w, c); here, unlike in `pack`, channels are last in a
    patch, as the model was trained."""
    t, h, w, c = shape
    x = tokens.reshape(t, h // PATCH, w // PATCH, PATCH, PATCH, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


def coordinates(grid: tuple[int, int, int], audio: int, text: int, style: str) -> np.ndarray:
    """Return (t, h, w, T, H, W, refT, refH, refW) of every token, float64.

    `grid` is the video's (frames, rows, columns) in tokens. Style "v2" aligns audio with the video's time
    by its own length, and does not rotate text; super-resolution was trained with "v1"."""
    frames = grid[0]
    if style == "v2":
        parts = [
            _grid(grid, grid),
            _grid((audio, 1, 1), ((audio - 1) // 4 + 1, 1, 1)),
            _grid((text, 1, 1), (1, 1, 1), start=-text),
        ]
    else:
        parts = [
            _grid(grid, grid),
            _grid((audio, 1, 1), (frames, 1, 1)),
            _grid((text, 1, 1), (2, 1, 1)),
        ]
    return np.concatenate(parts)


def _grid(size: tuple[int, int, int], reference: tuple[int, int, int], start: int = 0) -> np.ndarray:
    cells = np.indices(size, dtype=np.float64).reshape(3, -1).T + np.array([start, 0, 0])
    return np.hstack([cells, np.broadcast_to([*size, *reference], (len(cells), 6))])


def rotation(coords: np.ndarray, bands: int) -> tuple[mx.array, mx.array]:
    """Return cosines and sines (tokens, 3 · bands), fp32, for coordinates (tokens, 9)."""
    cells, sizes, references = np.split(coords, 3, axis=1)
    single = (sizes == 1) & (references == 1)
    scales = np.where(single, 1.0, (references - 1) / np.maximum(sizes - 1, 1))
    centres = (sizes - 1) / 2 * [0, 1, 1]
    frequencies = ROPE_BASE ** (-np.arange(bands) / bands)
    angles = (((cells - centres) * scales)[..., None] * frequencies).reshape(len(coords), -1)
    return mx.array(np.cos(angles), mx.float32), mx.array(np.sin(angles), mx.float32)
