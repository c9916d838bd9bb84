"""Dimensions of a network, read from and written to the config.json beside its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

# Limits that reject damaged configs. The largest published width is 256,000 tokens of vocabulary, the largest
# number of layers 42.
MAX_WIDTH = 1 << 20
MAX_COUNT = 1000  # layers, heads, blocks


@dataclass
class Config:
    """Base class of the networks' configs."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Take the known keys, with lists as tuples, and ignore others (`type`, `quantization`).

        Raise ValueError for a number that no network has."""
        known = {f.name for f in fields(cls)}
        taken = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
        for name, value in taken.items():
            for item in value if isinstance(value, tuple) else (value,):
                limit = MAX_COUNT if name.startswith(("num_", "layers", "residual_")) else MAX_WIDTH
                if not isinstance(item, str) and not 0 <= item <= limit:
                    raise ValueError(f"{name} is {item}")
        return cls(**taken)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
