"""A small transformer checkpoint in the published layout, made up on the spot."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

HIDDEN, HEADS, KV_HEADS, DIM, INNER = 64, 4, 2, 16, 100
ROWS = HEADS * DIM + 2 * KV_HEADS * DIM + HEADS


def published(dtype: mx.Dtype = mx.bfloat16, seed: int = 0) -> dict[str, mx.array]:
    """Layers: GELU7 with experts, shared SwiGLU7, SwiGLU7 with experts. No width divides by 128."""
    key = mx.random.key(seed)

    def normal(*shape: int) -> mx.array:
        nonlocal key
        key, now = mx.random.split(key)
        return mx.random.normal(shape, key=now) * shape[-1] ** -0.5

    tensors = {"adapter.rope.bands": 10000.0 ** (-mx.arange(2) / 2)}
    for name, width in (("video", 192), ("audio", 64), ("text", 32)):
        tensors[f"adapter.{name}_embedder.weight"] = normal(HIDDEN, width)
        tensors[f"adapter.{name}_embedder.bias"] = normal(HIDDEN)
    for name, width in (("video", 192), ("audio", 64)):
        tensors[f"final_norm_{name}.weight"] = normal(HIDDEN)
        tensors[f"final_linear_{name}.weight"] = normal(width, HIDDEN)
    for i, (experts, gelu) in enumerate(((3, True), (1, False), (3, False))):
        block, rows = f"block.layers.{i}.", INNER if gelu else 2 * INNER
        tensors |= {
            block + "attention.pre_norm.weight": normal(experts * HIDDEN),
            block + "attention.q_norm.weight": normal(experts * DIM),
            block + "attention.k_norm.weight": normal(experts * DIM),
            block + "mlp.pre_norm.weight": normal(experts * HIDDEN),
            block + "attention.linear_qkv.weight": normal(experts * ROWS, HIDDEN).astype(dtype),
            block + "attention.linear_proj.weight": normal(experts * HIDDEN, HEADS * DIM).astype(dtype),
            block + "mlp.up_gate_proj.weight": normal(experts * rows, HIDDEN).astype(dtype),
            block + "mlp.down_proj.weight": normal(experts * HIDDEN, INNER).astype(dtype),
        }
    return tensors


def save(tensors: dict[str, mx.array], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    return folder


def inputs() -> tuple[mx.array, mx.array, mx.array]:
    """Latents of 2 frames, 4 × 6, 5 of audio, and 3 tokens of text."""
    keys = mx.random.split(mx.random.key(1), 3)
    shapes = (2, 4, 6, 48), (5, 64), (3, 32)
    video, audio, text = (mx.random.normal(s, key=k) for s, k in zip(shapes, keys, strict=True))
    return video, audio, text
