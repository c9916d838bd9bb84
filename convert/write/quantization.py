"""In what precision weights are stored: 16 bits, or quantized, and why the others are left alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_happyhorse.errors import RequestError
from mlx_happyhorse.storage.dtypes import DTYPES, GATE, LARGE, is_cast
from mlx_happyhorse.storage.weights import build

from ..layouts.published import Component
from ..read.tensors import Tensor

AFFINE_BITS, AFFINE_GROUPS = (2, 3, 4, 5, 6, 8), (32, 64, 128)
MICROSCALING = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}  # bits and group size
MODES = ("affine", *MICROSCALING)


@dataclass(frozen=True)
class Quantization:
    """How a matrix is quantized. Bits and group size that are 0 become 4 and 64, or what the mode has."""

    bits: int = 0
    group_size: int = 0
    mode: str = "affine"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise RequestError(
                f"quantization mode {self.mode!r} is not known: choose one of {', '.join(MODES)}."
            )
        bits, group_size = MICROSCALING.get(self.mode, (4, 64))
        object.__setattr__(self, "bits", self.bits or bits)
        object.__setattr__(self, "group_size", self.group_size or group_size)
        if self.mode == "affine":
            if self.bits not in AFFINE_BITS or self.group_size not in AFFINE_GROUPS:
                raise RequestError(
                    f"{self.bits} bits in groups of {self.group_size} are not possible: "
                    "2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128."
                )
        elif (self.bits, self.group_size) != (bits, group_size):
            raise RequestError(f"{self.mode} has {bits} bits in groups of {group_size}, no others.")

    def settings(self) -> dict[str, Any]:
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    def finer(self) -> Quantization:
        """The next that is more exact, itself if there is none."""
        if self.mode == "affine":
            more = [bits for bits in AFFINE_BITS if bits > self.bits]
            return replace(self, bits=min(more, default=self.bits))
        return Quantization(mode="mxfp8")

    @property
    def parts(self) -> tuple[str, ...]:
        """What is stored of a matrix."""
        return ("weight", "scales", "biases") if self.mode == "affine" else ("weight", "scales")

    def quantize(self, rows: mx.array) -> dict[str, mx.array]:
        """Packed weight (n, k · bits / 32), scales and, if affine, biases (n, k / group size)."""
        return dict(zip(self.parts, mx.quantize(rows, **self.settings()), strict=True))

    def dequantize(self, weight: mx.array, scales: mx.array, biases: mx.array | None = None) -> mx.array:
        """What `quantize` gave → (n, k) in 16 bits, or as wide as the scales are."""
        return mx.dequantize(weight, scales, biases, **self.settings())


# A recipe says which large matrices get a step more than was asked for, by path and the network's config.
Recipe = Callable[[str, dict[str, Any]], bool]


def _layer(path: str) -> int | None:
    found = re.match(r"layers\.(\d+)\.", path)
    return int(found[1]) if found else None


def _uniform(path: str, config: dict[str, Any]) -> bool:
    return False


def _shared(path: str, config: dict[str, Any]) -> bool:
    """Layers that every token passes: all of a text encoder's, a transformer's without experts."""
    return _layer(path) is not None and _layer(path) not in config.get("modality_layers", ())


def _down(path: str, config: dict[str, Any]) -> bool:
    return path.endswith((".down", ".down_proj"))


def _ends(path: str, config: dict[str, Any]) -> bool:
    count = config.get("num_layers") or config["num_hidden_layers"]
    return _layer(path) in (0, 1, count - 2, count - 1)


RECIPES: dict[str, Recipe] = {"uniform": _uniform, "shared": _shared, "down": _down, "ends": _ends}


@dataclass(frozen=True)
class Format:
    """How a tensor is stored: as `dtype`, and then quantized if it is to be."""

    dtype: mx.Dtype
    quantization: Quantization | None = None

    def encode(self, name: str, rows: mx.array) -> dict[str, mx.array]:
        """Rows of the tensor `name` → the same rows of what is stored, by name."""
        rows = rows.astype(self.dtype)
        if self.quantization is None:
            return {name: rows}
        return {_part(name, part): array for part, array in self.quantization.quantize(rows).items()}

    def decode(self, name: str, stored: dict[str, mx.array]) -> mx.array:
        """What `encode` gave → rows as the network will multiply with them."""
        if self.quantization is None:
            return stored[name]
        how = self.quantization
        return how.dequantize(*(stored[_part(name, part)] for part in how.parts))


class Prepared(NamedTuple):
    """A component and how each of its tensors is to be stored; `notes` on what was left unquantized."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    formats: dict[str, Format]
    notes: list[str]


def prepare(
    component: Component, dtype: str, how: Quantization | None = None, recipe: str = "uniform"
) -> Prepared:
    """Large matrices and gates in `dtype`, large matrices quantized, the rest as it is.

    Raises RequestError for a dtype or recipe that is not known."""
    for value, known in ((dtype, DTYPES), (recipe, RECIPES)):
        if value not in known:
            raise RequestError(f"{value!r} is not known: choose one of {', '.join(known)}.")
    config, tensors = component
    kind = config["type"]
    if kind not in LARGE:
        notes = [] if how is None else [f"{kind}: all of it, decoders and encoders run in full precision"]
        return Prepared(config, tensors, {name: Format(t.dtype) for name, t in tensors.items()}, notes)
    if kind == "text_encoder" and dtype == "float16":
        dtype = "bfloat16"  # Gemma's residual stream outgrows half precision
    config = config | {"dtype": dtype}
    notes = []
    if how is not None:
        config["quantization"], notes = quantization_block(config, how, recipe)
    return Prepared(config, tensors, formats(config, tensors), notes)


def formats(config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Format]:
    """How a network's tensors are stored, as its config says."""
    kind, dtype = config["type"], DTYPES[config["dtype"]]
    found = {name: Format(dtype if is_cast(kind, name) else t.dtype) for name, t in tensors.items()}
    for path, layer in build(config).named_modules():
        if isinstance(layer, nn.QuantizedLinear | nn.QuantizedEmbedding):
            how = Quantization(layer.bits, layer.group_size, layer.mode)
            found[f"{path}.weight"] = Format(dtype, how)
    return found


def quantization_block(
    config: dict[str, Any], how: Quantization, recipe: str = "uniform"
) -> tuple[dict[str, Any], list[str]]:
    """mlx-lm's block for a network: settings for all, others or false by path. And notes on what is left
    unquantized."""
    kind, is_finer = config["type"], RECIPES[recipe]
    block: dict[str, Any] = how.settings()
    left_alone: Counter[tuple[str, str]] = Counter()
    for path, layer in sorted(build(config).named_modules()):
        if not isinstance(layer, nn.Linear | nn.Embedding):
            continue
        reason, chosen = _reason_against(path, kind), how
        if reason is None:
            chosen = how.finer() if is_finer(path, config) else how
            width = layer.weight.shape[-1]
            if width % chosen.group_size:
                reason = f"its rows of {width} do not divide into groups of {chosen.group_size}"
        if reason is not None:
            left_alone[re.sub(r"\d+", "*", path), reason] += 1
            block[path] = False
        elif chosen != how:
            block[path] = chosen.settings()
    return block, [f"{kind}: {path} (×{n}), {reason}" for (path, reason), n in left_alone.items()]


def _reason_against(path: str, kind: str) -> str | None:
    if GATE.fullmatch(path):
        return "small, and every head hangs on it"
    if not LARGE[kind].fullmatch(path):
        return "small, and kept in fp32 as in training"
    return None


def _part(name: str, part: str) -> str:
    return name.removesuffix("weight") + part
