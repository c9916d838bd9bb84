"""Read settings from a clip's metadata. The clip may come from a stranger: nothing it names is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mlx_happyhorse.inputs.request import LIMITS, UPSCALED
from mlx_happyhorse.outputs import metadata
from mlx_happyhorse.storage import hub

from ..jobs.queue import Order

MAX_PROMPT = 20_000  # characters, as the page's own prompt has at most
MAX_NAME = 200  # characters of a model's or a file's name: it is only shown


@dataclass(frozen=True)
class RestoredSettings:
    """The settings of a clip, without those that are out of their limits.

    `image`, `audio` and `model` are names to show; they must not be opened or downloaded."""

    prompt: str
    settings: dict[str, Any]
    image: str | None
    audio: str | None
    model: str
    model_is_here: bool

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read the settings of a clip. Raises RequestError if it is none, or holds none."""
        return cls.of(metadata.read(file))

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """Check metadata that `metadata.read` returned."""
        settings: dict[str, Any] = {
            name: value for name in LIMITS if (value := _number(values.get(name), name)) is not None
        }
        if isinstance(negative := values.get("negative_prompt"), str):
            settings["negative_prompt"] = negative[:MAX_PROMPT]
        if (upscale := values.get("upscale")) in tuple(UPSCALED):  # a tuple, as it may be unhashable
            settings["upscale"] = upscale
        image, audio = _file_name(values.get("image")), _file_name(values.get("audio"))
        model = str(values["model"])[:MAX_NAME]
        here = hub.is_installed(model)
        return cls(values["prompt"][:MAX_PROMPT], settings, image, audio, model, here)

    @property
    def order(self) -> Order:
        """The order that generates the clip again, without its first frame and voice."""
        return Order(self.prompt, self.model, self.settings)


def _number(value: Any, name: str) -> float | int | None:
    kind, (low, high) = LIMITS[name]
    valid = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    return kind(value) if valid else None


def _file_name(source: Any) -> str | None:
    """Return the name of a first frame or voice; "?" if it had none, None if the clip had no such input."""
    path = source.get("path") if isinstance(source, dict) else None
    if not source:
        return None
    return Path(path).name[:MAX_NAME] if isinstance(path, str) else "?"
