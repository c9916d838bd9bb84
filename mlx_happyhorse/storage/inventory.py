"""What a model folder holds: parameters, bits, sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from .hub import describe
from .weights import build, parameters, read_json


class Network(NamedTuple):
    """A component: its dimensions, how many parameters it has, and how many bytes they take."""

    name: str
    config: dict[str, Any]
    parameters: int
    bytes: int

    @property
    def bits(self) -> float:
        """Per parameter, with the scales of quantization."""
        return 8 * self.bytes / max(self.parameters, 1)


def networks(folder: Path) -> list[Network]:
    """The components of a model folder that are on this machine. Raises ModelError for damaged ones."""
    names = [name for name in describe(folder)["components"] if any((folder / name).glob("*.safetensors"))]
    return [network(name, read_json(folder / name / "config.json"), _bytes(folder / name)) for name in names]


def network(name: str, config: dict[str, Any], size: int) -> Network:
    plain = {key: value for key, value in config.items() if key != "quantization"}
    count = sum(tensor.size for tensor in parameters(build(plain)).values())
    return Network(name, config, count, size)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
