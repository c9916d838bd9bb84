"""The facts about a model that the page needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlx_happyhorse.storage import hub

TINY = "tiny"
SHORTEST, LONGEST = 3, 15  # seconds on the slider, as HappyHorse's API takes


@dataclass(frozen=True)
class Model:
    """A model's sampling defaults, the sizes that it can upscale to, and whether it uses guidance."""

    name: str
    sampling: dict[str, Any]
    upscalers: tuple[str, ...]
    guided: bool

    @classmethod
    def of(cls, name: str) -> Model:
        """Read a model's config.json. Raises RequestError if there is no such model."""
        config = hub.describe(hub.find(name))
        sizes = [size for size in ("540p", "1080p") if f"upscaler_{size}" in config["components"]]
        return cls(name, config["sampling"], tuple(sizes), config["variant"] == "base")

    @property
    def lengths(self) -> tuple[int, int, int]:
        """The shortest clip, the default and the longest, in whole seconds."""
        default = round(self.sampling["seconds"])
        return min(SHORTEST, default - 1) or 1, default, LONGEST


def full_models() -> list[str]:
    """Return the models on this machine without the tiny one, whose clips are noise."""
    return [name for name in hub.installed() if name not in hub.EMBEDDED]
