"""In what precision weights are stored: 16 bits, or quantized, and why the others are left alone."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_happyhorse.precision import DTYPES, GATE, LARGE, cast
from mlx_happyhorse.weights import build

from .networks import Component


@dataclass(frozen=True)
class Quantization:
    bits: int = 4
    group_size: int = 64
    mode: str = "affine"


def store_as(component: Component, dtype: str) -> Component:
    """Large matrices and gates in `dtype`, the rest as it is."""
    kind = component.config["type"]
    if kind not in LARGE:
        return component
    if kind == "text_encoder" and dtype == "float16":
        dtype = "bfloat16"  # Gemma's residual stream outgrows half precision
    tensors = cast(kind, component.tensors, DTYPES[dtype])
    return Component(component.config | {"dtype": dtype}, tensors)


def quantize(component: Component, how: Quantization) -> tuple[Component, list[str]]:
    """The component with its large matrices quantized, and a line for each kind that was left alone."""
    kind = component.config["type"]
    if kind not in LARGE:
        return component, [f"{kind}: all of it, decoders and encoders run in full precision"]
    layers = dict(build(component.config).named_modules())
    tensors = dict(component.tensors)
    block: dict[str, Any] = {"group_size": how.group_size, "bits": how.bits, "mode": how.mode}
    left_alone: Counter[tuple[str, str]] = Counter()
    for path, layer in sorted(layers.items()):
        if not isinstance(layer, nn.Linear | nn.Embedding):
            continue
        if reason := _reason_against(path, tensors[f"{path}.weight"], kind, how):
            left_alone[re.sub(r"\d+", "*", path), reason] += 1
            block[path] = False
            continue
        weight = tensors.pop(f"{path}.weight")
        names = ("weight", "scales", "biases")
        parts = mx.quantize(weight, group_size=how.group_size, bits=how.bits, mode=how.mode)
        tensors |= {f"{path}.{name}": part for name, part in zip(names, parts, strict=True)}
    lines = [f"{kind}: {path} (×{n}), {reason}" for (path, reason), n in left_alone.items()]
    return Component(component.config | {"quantization": block}, tensors), lines


def _reason_against(path: str, weight: mx.array, kind: str, how: Quantization) -> str | None:
    if GATE.fullmatch(path):
        return "small, and every head hangs on it"
    if not LARGE[kind].fullmatch(path):
        return "small, and kept in fp32 as in training"
    if weight.shape[-1] % how.group_size:
        return f"its rows of {weight.shape[-1]} do not divide into groups of {how.group_size}"
    return None
