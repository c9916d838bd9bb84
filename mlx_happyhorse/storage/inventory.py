"""The networks in a model folder: parameters, bits, sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from .hub import describe
from .weights import build, parameters, read_json


class Network(NamedTuple):
    """A component: its config, number of parameters, and bytes on disk."""

    name: str
    config: dict[str, Any]
    parameters: int
    bytes: int

    @property
    def bits(self) -> float:
        """Return the bits per parameter, with the scales of quantization."""
        return 8 * self.bytes / max(self.parameters, 1)


def networks(folder: Path) -> list[Network]:
    """Return the components of a model folder that are on this machine. Raise ModelError for damaged ones."""
    names = [name for name in describe(folder)["components"] if any((folder / name).glob("*.safetensors"))]
    return [network(name, read_json(folder / name / "config.json"), _bytes(folder / name)) for name in names]


def network(name: str, config: dict[str, Any], size: int) -> Network:
    """Return the component that `config` describes; its parameters are counted before quantization."""
    plain = {key: value for key, value in config.items() if key != "quantization"}
    count = sum(tensor.size for tensor in parameters(build(plain)).values())
    return Network(name, config, count, size)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
