"""Latents → a small preview of the clip, by a linear map instead of the decoder.

Latents are nearly linear in colour: an affine map from a cell's 48 channels to the mean colour of its 16×16
pixels, fitted by least squares to what the model's own decoder makes, shows shapes and colours at every step.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image

from ..errors import RequestError
from ..files import atomic_write, expanded, home
from ..geometry import CELL, CHUNK, FPS
from ..notes import note

RIDGE = 0.1  # of a channel's mean square: where colours do not depend on latents, the mean colour is shown
DECAY = 0.7  # weight of earlier clips after each later one
MAX_CELLS = 50_000  # of one clip, evenly spread
RATE = FPS / CHUNK  # latent frames a second
LONG_SIDE = 448  # pixels of a preview's image
NOISE = (3, 16, 16)  # that a map is first fitted to: latent frames, rows, columns
STILLS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}

Decode = Callable[[mx.array], Iterator[mx.array]]  # latents (n, h, w, 48) → uint8 frames, 4n - 3 in all


@dataclass
class Preview:
    """The map of one decoder, as the sums of its least squares problem: `gram` (channels + 1, channels + 1)
    of the latents' products, `cross` (channels + 1, 3) of their products with colours."""

    gram: np.ndarray
    cross: np.ndarray

    @classmethod
    def of(cls, decoder: str, channels: int, decode: Decode) -> Preview:
        """Return the cached map of a decoder, by its weights' fingerprint; else fit one to decoded noise and
        cache it."""
        if (kept := load(decoder, channels)) is not None:
            return kept
        preview = cls(np.zeros((channels + 1, channels + 1)), np.zeros((channels + 1, 3)))
        latents = np.random.default_rng(0).standard_normal((*NOISE, channels)).astype(np.float32)
        colours = Colours()
        for frames in decode(mx.array(latents)):
            colours.add(np.array(frames))
        preview.learn(latents, colours)
        preview.save(decoder)
        return preview

    def learn(self, latents: np.ndarray, colours: Colours) -> None:
        """Improve the map by a clip's latents (n, h, w, channels) and the colours of its 4n - 3 frames."""
        cells, seen = _cells(latents), colours.of_latents().reshape(-1, 3)
        every = max(len(cells) // MAX_CELLS, 1)
        cells, seen = cells[::every], seen[::every]
        self.gram = DECAY * self.gram + cells.T @ cells
        self.cross = DECAY * self.cross + cells.T @ seen

    def render(self, latents: np.ndarray) -> np.ndarray:
        """Return the colours (n, h, w, 3) uint8 of latents (n, h, w, channels)."""
        squares = np.diag(self.gram).copy()
        squares[-1] = 0  # the constant is the mean colour
        ridge = np.diag(np.where(squares > 0, RIDGE * squares.mean(), 0))
        coefficients = np.linalg.lstsq(self.gram + ridge, self.cross, rcond=None)[0]
        colours = _cells(latents) @ coefficients
        return np.clip(np.round(colours), 0, 255).astype(np.uint8).reshape(*latents.shape[:3], 3)

    def save(self, decoder: str) -> None:
        """Cache the map. A disk that cannot be written to is ignored."""
        with suppress(OSError):
            _file(decoder).parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(_file(decoder)) as beside, beside.open("wb") as file:
                np.savez(file, gram=self.gram, cross=self.cross)


class Colours:
    """The mean colour of each latent's pixels, collected as frames are decoded."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []

    def add(self, frames: np.ndarray) -> None:
        """Add the next frames (some, height, width, 3) uint8."""
        count, height, width, _ = frames.shape
        blocks = frames.reshape(count, height // CELL, CELL, width // CELL, CELL, 3)
        self.rows.extend(blocks.mean((2, 4), dtype=np.float32))

    def of_latents(self) -> np.ndarray:
        """Return (n, h, w, 3) of 4n - 3 frames: the first one's, then the mean of each four."""
        frames = np.stack(self.rows)
        later = frames[1:].reshape(-1, 4, *frames.shape[1:]).mean(1)
        return np.concatenate([frames[:1], later])


def load(decoder: str, channels: int) -> Preview | None:
    """Return the cached map of a decoder; None if there is none or it is damaged."""
    try:
        with np.load(_file(decoder), allow_pickle=False) as kept:
            preview = Preview(kept["gram"], kept["cross"])
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile):
        return None
    shapes = preview.gram.shape, preview.cross.shape
    finite = np.isfinite(preview.gram).all() and np.isfinite(preview.cross).all()
    return preview if shapes == ((channels + 1,) * 2, (channels + 1, 3)) and finite else None


def encode_webp(frames: np.ndarray) -> bytes:
    """Encode colours (n, h, w, 3) as an enlarged WebP image, animated where n > 1."""
    first, *rest = [_enlarged(frame) for frame in frames]
    data = io.BytesIO()
    options = {"save_all": True, "append_images": rest, "duration": round(1000 / RATE), "loop": 0}
    first.save(data, "WEBP", quality=70, method=0, **(options if rest else {}))
    return data.getvalue()


class PreviewFile:
    """A file with the latest preview: an animated .webp, or a .png or .jpg of the middle frame."""

    def __init__(self, path: str | Path):
        """Raise RequestError for other endings, and for a folder that does not exist."""
        self.path, self.failed = expanded(path), False
        if self.path.suffix.lower() not in (".webp", *STILLS):
            raise RequestError(f"{path}: a preview is a .webp (animated), .png or .jpg file.")
        if not self.path.parent.is_dir():
            raise RequestError(f"the folder {self.path.parent} does not exist: create it, or choose another.")

    def write(self, frames: np.ndarray) -> None:
        """Replace the preview. A disk that cannot be written to is noted once, and the run goes on."""
        if self.failed:
            return
        try:
            with atomic_write(self.path) as beside:
                beside.write_bytes(self._encoded(frames))
        except OSError as error:
            self.failed = True
            note(f"the preview {self.path} could not be written: {error.strerror}.")

    def _encoded(self, frames: np.ndarray) -> bytes:
        if (still := STILLS.get(self.path.suffix.lower())) is None:
            return encode_webp(frames)
        data = io.BytesIO()
        _enlarged(frames[len(frames) // 2]).save(data, still)
        return data.getvalue()


def _enlarged(frame: np.ndarray) -> Image.Image:
    height, width, _ = frame.shape
    scale = max(LONG_SIDE / max(height, width), 1)
    size = round(width * scale), round(height * scale)
    return Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)


def _cells(latents: np.ndarray) -> np.ndarray:
    """Flatten latents to (cells, channels + 1), the last column being 1."""
    flat = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
    return np.concatenate([flat, np.ones((len(flat), 1))], axis=1)


def _file(decoder: str) -> Path:
    return home() / "previews" / f"{decoder}.npz"
