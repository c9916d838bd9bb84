"""Dimensions of a network, read from and written to the config.json beside its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

LARGEST = 1 << 20  # no width of a sound config comes near
MOST = 1000  # layers, heads, blocks


@dataclass
class Config:
    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Takes the known keys and ignores the rest (`type`, `quantization`); lists become tuples.

        Raises ValueError for a number that no network has."""
        known = {f.name for f in fields(cls)}
        taken = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
        for name, value in taken.items():
            for item in value if isinstance(value, tuple) else (value,):
                limit = MOST if name.startswith(("num_", "layers", "residual_")) else LARGEST
                if not isinstance(item, str) and not 0 <= item <= limit:
                    raise ValueError(f"{name} is {item}")
        return cls(**taken)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
