"""The clips in the output folder, with the settings in their metadata."""

from __future__ import annotations

import base64
import io
import threading
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import av
from PIL import Image

from mlx_happyhorse.errors import RequestError
from mlx_happyhorse.outputs import metadata
from mlx_happyhorse.pipeline.writer import LATENTS

from ..jobs.queue import Order
from .restored import RestoredSettings
from .texts import Texts

MAX_CLIPS = 24  # the newest ones
POSTER_WIDTH = 240  # pixels
MAX_LABEL = 120  # characters of the prompt


@dataclass(frozen=True)
class SavedClip:
    """A clip in the output folder: its file, a JPEG of its first frame, and its settings."""

    file: Path
    poster: bytes
    settings: dict[str, Any]

    @property
    def latents(self) -> Path | None:
        """The file that the clip can be upscaled from."""
        file = self.file.with_suffix(LATENTS)
        return file if file.exists() and self.settings.get("upscale") is None else None

    @property
    def order(self) -> Order:
        """The order that generates the clip again, without its first frame and voice."""
        return RestoredSettings.of(self.settings).order


class History:
    """The clips of a folder. Each file is read once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._known: dict[tuple[str, int], SavedClip | None] = {}
        self._lock = threading.Lock()

    def clips(self) -> list[SavedClip]:
        """Return the newest clips, newest first. Files of other programs and damaged ones are left out."""
        with self._lock:
            times = [(file, time) for file in self.folder.glob("*.mp4") if (time := _modified(file))]
            newest = sorted(times, key=lambda pair: pair[1], reverse=True)[:MAX_CLIPS]
            return [clip for file, time in newest if (clip := self._clip(file, time)) is not None]

    def find(self, name: str) -> SavedClip | None:
        """Return the clip of a file name; None if the history does not show it."""
        return next((clip for clip in self.clips() if clip.file.name == name), None)

    def _clip(self, file: Path, time: int) -> SavedClip | None:
        key = file.name, time
        if key not in self._known:
            try:
                self._known[key] = SavedClip(file, _poster(file), metadata.read(file))
            except (RequestError, OSError, av.FFmpegError, ValueError, StopIteration):
                self._known[key] = None
        return self._known[key]


def gallery(clips: list[SavedClip], texts: Texts) -> str:
    """Return the history as HTML: a button with a poster for each clip."""
    if not clips:
        return ""
    buttons = "".join(_button(clip) for clip in clips)
    return f'<p class="hh-title">{escape(texts.history)}</p><div class="hh-history">{buttons}</div>'


def _button(clip: SavedClip) -> str:
    poster = base64.b64encode(clip.poster).decode()
    name, label = escape(clip.file.name), escape(str(clip.settings["prompt"])[:MAX_LABEL])
    return (
        f'<button type="button" data-name="{name}" aria-label="{label}" title="{label}">'
        f'<img alt="" src="data:image/jpeg;base64,{poster}"></button>'
    )


def _poster(file: Path) -> bytes:
    """Return the first frame as a small JPEG."""
    with av.open(str(file)) as container:
        image: Image.Image = next(container.decode(video=0)).to_image()
    image.thumbnail((POSTER_WIDTH, POSTER_WIDTH))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return data.getvalue()


def _modified(file: Path) -> int:
    """Return when a file was changed, in ns; 0 if it was deleted meanwhile."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
