"""What the page must know of a model: its defaults, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlx_happyhorse.inputs.request import RATIOS, ratio_size
from mlx_happyhorse.storage import hub

TINY = "tiny"


@dataclass(frozen=True)
class Model:
    """`upscalers` are the sizes it can be upscaled to; `guided` tells whether it has guidance."""

    name: str
    sampling: dict[str, Any]
    upscalers: tuple[str, ...]
    guided: bool

    @classmethod
    def of(cls, name: str) -> Model:
        """Reads the description of a model. Raises RequestError."""
        config = hub.describe(hub.find(name))
        held = [size for size in ("540p", "1080p") if f"upscaler_{size}" in config["components"]]
        return cls(name, config["sampling"], tuple(held), config["variant"] == "base")

    @property
    def lengths(self) -> tuple[int, int, int]:
        """The shortest clip, the usual and the longest, in whole seconds."""
        usual = round(self.sampling["seconds"])
        return min(3, usual - 1) or 1, usual, 15

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Sizes by ratio."""
        usual = self.sampling["width"], self.sampling["height"]
        return {ratio: ratio_size(ratio, usual) for ratio in RATIOS}


def real_models() -> list[str]:
    """The models on this machine that make more than toys."""
    return [name for name in hub.installed() if name not in hub.EMBEDDED]
