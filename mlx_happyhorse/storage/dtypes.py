"""Which tensors a network computes with in 16 bits; everything else was trained, and stays, in fp32."""

from __future__ import annotations

import re

import mlx.core as mx

DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}

# Per type of network: the large matrices, which may also be quantized.
LARGE = {
    "transformer": re.compile(r"layers\..*\.(qkv|proj|up|gate_up|down)"),
    "text_encoder": re.compile(r"embed_tokens|layers\..*_proj"),
}
GATE = re.compile(r"layers\..*\.gate")  # in 16 bits as well, but too small to quantize


def cast(
    kind: str, tensors: dict[str, mx.array], dtype: mx.Dtype, stream: mx.Stream | None = None
) -> dict[str, mx.array]:
    """The tensors of a network of this kind; what it computes with in 16 bits, scales too, as `dtype`, all
    else in fp32, however they are stored."""
    return {
        name: tensor.astype(dtype if is_cast(kind, name) else mx.float32, stream=stream)
        if mx.issubdtype(tensor.dtype, mx.floating)
        else tensor
        for name, tensor in tensors.items()
    }


def is_cast(kind: str, name: str) -> bool:
    """Whether the network computes with this tensor in 16 bits."""
    path = name.rpartition(".")[0]
    return kind in LARGE and bool(LARGE[kind].fullmatch(path) or GATE.fullmatch(path))
