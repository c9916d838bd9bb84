"""The clips of the output folder, with what their own metadata say."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from PIL import Image

from mlx_happyhorse.errors import RequestError
from mlx_happyhorse.inputs.request import LIMITS
from mlx_happyhorse.outputs import metadata
from mlx_happyhorse.pipeline.writer import LATENTS
from mlx_happyhorse.storage import hub

SHOWN = 24  # the newest clips
WIDTH = 240  # pixels of a poster
LONGEST_PROMPT = 20_000  # letters of a prompt that is restored


@dataclass(frozen=True)
class Entry:
    """A clip of ours in the folder, and the JPEG that stands for it."""

    file: Path
    poster: bytes
    settings: dict[str, Any]

    @property
    def latents(self) -> Path | None:
        """What it can be upscaled from."""
        file = self.file.with_suffix(LATENTS)
        return file if file.exists() and self.settings.get("upscale") is None else None


@dataclass(frozen=True)
class Restored:
    """What a clip of anybody's says of itself, for the fields of the page: checked, and only what they hold.

    `image`, `audio` and `model` are names to show, nothing that is opened or fetched."""

    prompt: str
    settings: dict[str, Any]
    image: str | None
    audio: str | None
    model: str
    model_is_here: bool


class History:
    """Reads each file once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._known: dict[tuple[str, int], Entry | None] = {}
        self._lock = threading.Lock()

    def entries(self) -> list[Entry]:
        """The newest first. Foreign and damaged files are left out."""
        with self._lock:
            stamps = [(file, stamp) for file in self.folder.glob("*.mp4") if (stamp := _changed(file))]
            newest = sorted(stamps, key=lambda pair: pair[1], reverse=True)[:SHOWN]
            return [entry for file, stamp in newest if (entry := self._entry(file, stamp)) is not None]

    def _entry(self, file: Path, stamp: int) -> Entry | None:
        key = file.name, stamp
        if key not in self._known:
            try:
                self._known[key] = Entry(file, _poster(file), metadata.read(file))
            except (RequestError, OSError, av.FFmpegError, ValueError, StopIteration):
                self._known[key] = None
        return self._known[key]


def _poster(file: Path) -> bytes:
    """The first frame as a small JPEG."""
    with av.open(str(file)) as container:
        image: Image.Image = next(container.decode(video=0)).to_image()
    image.thumbnail((WIDTH, WIDTH))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return data.getvalue()


def restore(file: Path) -> Restored:
    """What a clip says of itself. Raises RequestError for what is no clip of ours."""
    said = metadata.read(file)
    model = str(said["model"])[:200]
    settings: dict[str, Any] = {
        name: value for name in LIMITS if (value := _number(said.get(name), name)) is not None
    }
    if isinstance(negative := said.get("negative_prompt"), str):
        settings["negative_prompt"] = negative[:LONGEST_PROMPT]
    if said.get("upscale") in ("540p", "1080p"):
        settings["upscale"] = said["upscale"]
    image, audio = _name(said.get("image")), _name(said.get("audio"))
    return Restored(said["prompt"][:LONGEST_PROMPT], settings, image, audio, model, hub.is_here_as(model))


def _number(value: Any, name: str) -> float | int | None:
    kind, (low, high) = LIMITS[name]
    sound = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    return kind(value) if sound else None


def _name(source: Any) -> str | None:
    path = source.get("path") if isinstance(source, dict) else None
    if not source:
        return None
    return Path(path).name[:100] if isinstance(path, str) else "?"


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
