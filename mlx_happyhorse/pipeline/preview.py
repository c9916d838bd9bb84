"""Latents → a small picture of what they will become, by a linear map instead of the decoder.

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
from ..files import expanded, home, written_beside
from ..geometry import CELL, CHUNK, FPS
from ..notes import note

RIDGE = 0.1  # of a channel's mean square: where colours do not follow, the mean colour is shown
DECAY = 0.7  # what earlier clips count for after each later one
MOST_CELLS = 50_000  # of a clip that are looked at
RATE = FPS / CHUNK  # latent frames a second
LONG_SIDE = 448  # pixels of a preview's image
SEEN = (3, 16, 16)  # the noise that a map is first fitted to: latent frames, rows, columns
STILLS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}

Decode = Callable[[mx.array], Iterator[mx.array]]  # latents (n, h, w, 48) → uint8 frames, 4n - 3 in all


@dataclass
class Preview:
    """The map of one decoder: sums of squares `gram` (channels + 1, channels + 1) and of products with
    colours `cross` (channels + 1, 3), from which its coefficients follow."""

    gram: np.ndarray
    cross: np.ndarray

    @classmethod
    def of(cls, decoder: str, channels: int, decode: Decode) -> Preview:
        """The map that is kept for a decoder, by its weights' fingerprint; else one fitted to what it makes
        of noise, and kept."""
        if (kept := load(decoder, channels)) is not None:
            return kept
        preview = cls(np.zeros((channels + 1, channels + 1)), np.zeros((channels + 1, 3)))
        latents = np.random.default_rng(0).standard_normal((*SEEN, channels)).astype(np.float32)
        colours = Colours()
        for frames in decode(mx.array(latents)):
            colours.add(np.array(frames))
        preview.learn(latents, colours)
        preview.save(decoder)
        return preview

    def learn(self, latents: np.ndarray, colours: Colours) -> None:
        """Improve the map by a clip: latents (n, h, w, channels), and the colours of its 4n - 3 frames."""
        cells, seen = _cells(latents), colours.of_latents().reshape(-1, 3)
        every = max(len(cells) // MOST_CELLS, 1)
        cells, seen = cells[::every], seen[::every]
        self.gram = DECAY * self.gram + cells.T @ cells
        self.cross = DECAY * self.cross + cells.T @ seen

    def render(self, latents: np.ndarray) -> np.ndarray:
        """Latents (n, h, w, channels) → their colours (n, h, w, 3) uint8."""
        squares = np.diag(self.gram).copy()
        squares[-1] = 0  # the constant is the mean colour
        ridge = np.diag(np.where(squares > 0, RIDGE * squares.mean(), 0))
        coefficients = np.linalg.lstsq(self.gram + ridge, self.cross, rcond=None)[0]
        colours = _cells(latents) @ coefficients
        return np.clip(np.round(colours), 0, 255).astype(np.uint8).reshape(*latents.shape[:3], 3)

    def save(self, decoder: str) -> None:
        """Keep the map. A disk that cannot be written is no reason to fail."""
        with suppress(OSError):
            _file(decoder).parent.mkdir(parents=True, exist_ok=True)
            with written_beside(_file(decoder)) as beside, beside.open("wb") as file:
                np.savez(file, gram=self.gram, cross=self.cross)


class Colours:
    """The mean colour of each cell of a clip's frames, collected as they are decoded."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []

    def add(self, frames: np.ndarray) -> None:
        """Frames (some, height, width, 3) uint8."""
        count, height, width, _ = frames.shape
        blocks = frames.reshape(count, height // CELL, CELL, width // CELL, CELL, 3)
        self.rows.extend(blocks.mean((2, 4), dtype=np.float32))

    def of_latents(self) -> np.ndarray:
        """(n, h, w, 3) of 4n - 3 frames: the first frame's, then the means of four at a time."""
        frames = np.stack(self.rows)
        later = frames[1:].reshape(-1, 4, *frames.shape[1:]).mean(1)
        return np.concatenate([frames[:1], later])


def load(decoder: str, channels: int) -> Preview | None:
    """The map that is kept for a decoder; None if there is none, or if it is damaged."""
    try:
        with np.load(_file(decoder), allow_pickle=False) as kept:
            preview = Preview(kept["gram"], kept["cross"])
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile):
        return None
    shapes = preview.gram.shape, preview.cross.shape
    finite = np.isfinite(preview.gram).all() and np.isfinite(preview.cross).all()
    return preview if shapes == ((channels + 1,) * 2, (channels + 1, 3)) and finite else None


def encode_webp(frames: np.ndarray) -> bytes:
    """Colours (n, h, w, 3) → a WebP image large enough to look at, which plays where n > 1."""
    first, *rest = [_enlarged(frame) for frame in frames]
    data = io.BytesIO()
    options = {"save_all": True, "append_images": rest, "duration": round(1000 / RATE), "loop": 0}
    first.save(data, "WEBP", quality=70, method=0, **(options if rest else {}))
    return data.getvalue()


class PreviewFile:
    """A file that shows the newest preview: an animated .webp, or a .png or .jpg of the clip's middle."""

    def __init__(self, path: str | Path):
        """Raises RequestError for other endings, and for a folder that is not there."""
        self.path, self.failed = expanded(path), False
        if self.path.suffix.lower() not in (".webp", *STILLS):
            raise RequestError(f"{path}: a preview is .webp (moving), .png or .jpg (a still).")
        if not self.path.parent.is_dir():
            raise RequestError(f"the folder {self.path.parent} does not exist: make it, or choose another.")

    def write(self, frames: np.ndarray) -> None:
        """Replace what it shows. A disk that cannot be written is noted once, and ends no run."""
        if self.failed:
            return
        try:
            with written_beside(self.path) as beside:
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
    """(cells, channels + 1), the last a constant."""
    flat = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
    return np.concatenate([flat, np.ones((len(flat), 1))], axis=1)


def _file(decoder: str) -> Path:
    return home() / "previews" / f"{decoder}.npz"
