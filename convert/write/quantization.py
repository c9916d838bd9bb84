"""Choose the stored precision of each tensor: 16 bits, quantized, or unchanged and why."""

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
    """Bits, group size and mode as in `mx.quantize`; 0 means the mode's default (affine: 4 bits, groups of
    64).

    Raise RequestError for a combination that MLX does not support."""

    bits: int = 0
    group_size: int = 0
    mode: str = "affine"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise RequestError(f"unknown quantization mode {self.mode!r}: choose from {', '.join(MODES)}.")
        bits, group_size = MICROSCALING.get(self.mode, (4, 64))
        object.__setattr__(self, "bits", self.bits or bits)
        object.__setattr__(self, "group_size", self.group_size or group_size)
        if self.mode == "affine":
            if self.bits not in AFFINE_BITS or self.group_size not in AFFINE_GROUPS:
                raise RequestError(
                    f"{self.bits} bits in groups of {self.group_size} are not supported: "
                    "use 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128."
                )
        elif (self.bits, self.group_size) != (bits, group_size):
            raise RequestError(f"{self.mode} supports only {bits} bits in groups of {group_size}.")

    def settings(self) -> dict[str, Any]:
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    def finer(self) -> Quantization:
        """Return the next more exact quantization, or this one if there is none."""
        if self.mode == "affine":
            more = [bits for bits in AFFINE_BITS if bits > self.bits]
            return replace(self, bits=min(more, default=self.bits))
        return Quantization(mode="mxfp8")

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the names of the arrays that store a matrix."""
        return ("weight", "scales", "biases") if self.mode == "affine" else ("weight", "scales")

    def quantize(self, rows: mx.array) -> dict[str, mx.array]:
        """Quantize (n, k) to packed weight (n, k · bits / 32), scales and, if affine, biases (n, k / group
        size), by name."""
        return dict(zip(self.parts, mx.quantize(rows, **self.settings()), strict=True))

    def dequantize(self, weight: mx.array, scales: mx.array, biases: mx.array | None = None) -> mx.array:
        """Return (n, k) in the dtype of the scales, or bf16 for the microscaling modes."""
        return mx.dequantize(weight, scales, biases, **self.settings())


# Whether a large matrix gets the next more exact quantization, by its path and the network's config.
Recipe = Callable[[str, dict[str, Any]], bool]


def _layer(path: str) -> int | None:
    found = re.match(r"layers\.(\d+)\.", path)
    return int(found[1]) if found else None


def _uniform(path: str, config: dict[str, Any]) -> bool:
    return False


def _shared(path: str, config: dict[str, Any]) -> bool:
    """Select layers without experts, which every token passes: all of a text encoder's."""
    return _layer(path) is not None and _layer(path) not in config.get("modality_layers", ())


def _down(path: str, config: dict[str, Any]) -> bool:
    return path.endswith((".down", ".down_proj"))


def _ends(path: str, config: dict[str, Any]) -> bool:
    count = config.get("num_layers") or config["num_hidden_layers"]
    return _layer(path) in (0, 1, count - 2, count - 1)


RECIPES: dict[str, Recipe] = {"uniform": _uniform, "shared": _shared, "down": _down, "ends": _ends}


@dataclass(frozen=True)
class Format:
    """The stored form of a tensor: cast to `dtype`, then quantized if `quantization` is given."""

    dtype: mx.Dtype
    quantization: Quantization | None = None

    def encode(self, name: str, rows: mx.array) -> dict[str, mx.array]:
        """Return the stored arrays of some rows of the tensor `name`, by their names."""
        rows = rows.astype(self.dtype)
        if self.quantization is None:
            return {name: rows}
        return {_part(name, part): array for part, array in self.quantization.quantize(rows).items()}

    def decode(self, name: str, stored: dict[str, mx.array]) -> mx.array:
        """Return the rows as the network will use them; the inverse of `encode`."""
        if self.quantization is None:
            return stored[name]
        how = self.quantization
        return how.dequantize(*(stored[_part(name, part)] for part in how.parts))


class Prepared(NamedTuple):
    """A component with the stored format of each tensor; `notes` list what is not quantized and why."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    formats: dict[str, Format]
    notes: list[str]


def prepare(
    component: Component, dtype: str, how: Quantization | None = None, recipe: str = "uniform"
) -> Prepared:
    """Choose a format for each tensor: large matrices and gates are cast to `dtype`, large matrices are
    quantized as `how` says, the rest is unchanged.

    Raise RequestError for an unknown dtype or recipe."""
    for value, known in ((dtype, DTYPES), (recipe, RECIPES)):
        if value not in known:
            raise RequestError(f"{value!r} is unknown: choose from {', '.join(known)}.")
    config, tensors = component
    kind = config["type"]
    if kind not in LARGE:
        notes = [] if how is None else [f"{kind}: autoencoders run in full precision"]
        return Prepared(config, tensors, {name: Format(t.dtype) for name, t in tensors.items()}, notes)
    if kind == "text_encoder" and dtype == "float16":
        dtype = "bfloat16"  # Gemma's residual stream overflows fp16
    config = config | {"dtype": dtype}
    notes = []
    if how is not None:
        config["quantization"], notes = quantization_block(config, how, recipe)
    return Prepared(config, tensors, formats(config, tensors), notes)


def formats(config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Format]:
    """Return the format of each tensor that the network's config describes."""
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
    """Return mlx-lm's `quantization` block (defaults, then overrides or false by path), and a note for every
    kind of layer that is not quantized."""
    kind, is_finer = config["type"], RECIPES[recipe]
    block: dict[str, Any] = how.settings()
    unquantized: Counter[tuple[str, str]] = Counter()
    for path, layer in sorted(build(config).named_modules()):
        if not isinstance(layer, nn.Linear | nn.Embedding):
            continue
        reason, chosen = _why_not(path, kind), how
        if reason is None:
            chosen = how.finer() if is_finer(path, config) else how
            width = layer.weight.shape[-1]
            if width % chosen.group_size:
                reason = f"its width {width} is not a multiple of the group size {chosen.group_size}"
        if reason is not None:
            unquantized[re.sub(r"\d+", "*", path), reason] += 1
            block[path] = False
        elif chosen != how:
            block[path] = chosen.settings()
    return block, [f"{kind}: {path} (×{n}), {reason}" for (path, reason), n in unquantized.items()]


def _why_not(path: str, kind: str) -> str | None:
    if GATE.fullmatch(path):
        return "small, and each of its outputs gates an entire head"
    if not LARGE[kind].fullmatch(path):
        return "small, and fp32 in training too"
    return None


def _part(name: str, part: str) -> str:
    return name.removesuffix("weight") + part
