"""Dimensions of a network, read from and written to the config.json beside its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass
class Config:
    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Takes the known keys and ignores the rest (`type`, `quantization`); lists become tuples."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
