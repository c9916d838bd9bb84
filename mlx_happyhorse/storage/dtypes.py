"""The tensors that networks compute with in 16 bits; all others were trained, and stay, in fp32."""

from __future__ import annotations

import re

import mlx.core as mx

DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}

# The large matrices of each type of network, which may also be quantized.
LARGE = {
    "transformer": re.compile(r"layers\..*\.(qkv|proj|up|gate_up|down)"),
    "text_encoder": re.compile(r"embed_tokens|layers\..*_proj"),
}
GATE = re.compile(r"layers\..*\.gate")  # in 16 bits as well, but too small to quantize


def cast(
    kind: str, tensors: dict[str, mx.array], dtype: mx.Dtype, stream: mx.Stream | None = None
) -> dict[str, mx.array]:
    """Cast a network's tensors: large matrices, with their scales, to `dtype`, all others to fp32."""
    return {
        name: tensor.astype(dtype if is_cast(kind, name) else mx.float32, stream=stream)
        if mx.issubdtype(tensor.dtype, mx.floating)
        else tensor
        for name, tensor in tensors.items()
    }


def is_cast(kind: str, name: str) -> bool:
    """Return whether the network computes with this tensor in 16 bits."""
    path = name.rpartition(".")[0]
    return kind in LARGE and bool(LARGE[kind].fullmatch(path) or GATE.fullmatch(path))
