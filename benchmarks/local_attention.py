"""Print how much work local attention does for a clip of so many latent frames, beside full attention.

python benchmarks/local_attention.py [--frames 61]

Counts the multiplications of every attention that the model really runs (scores and weighted values), with
the 1080p upscaler's dimensions: 2040 video tokens a latent frame, 40 heads of 128. Nothing is computed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from unittest.mock import patch

import mlx.core as mx

from mlx_happyhorse.models import transformer
from mlx_happyhorse.models.matmul import UNLIMITED
from mlx_happyhorse.models.transformer import Layout, attend_rows

HEADS, KV_HEADS, DIM = 40, 8, 128
PER_FRAME, TEXT, REACH = 34 * 60, 300, 11


def flops(frames: int) -> tuple[float, float]:
    """Of local and of full attention, in one layer."""
    layout = Layout(frames * PER_FRAME, 4 * frames - 3, TEXT, frames)
    n = layout.spans[2].stop
    counted = 0

    def count(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        nonlocal counted
        counted += 4 * len(q) * len(k) * HEADS * DIM
        return q[:0]

    q, k = mx.zeros((n, HEADS, DIM), mx.bfloat16), mx.zeros((n, KV_HEADS, DIM), mx.bfloat16)
    with patch.object(transformer, "attend", count):
        attend_rows(q, k, k, 0, layout, REACH, UNLIMITED)
    return counted, 4.0 * n * n * HEADS * DIM


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=61)
    most = parser.parse_args(arguments).frames
    print("latent frames   local TFLOP   one frame more   full TFLOP   local/full")
    before = 0.0
    for frames in range(1, most + 1):
        local, full = flops(frames)
        more = (local - before) / 1e12
        print(f"{frames:13}{local / 1e12:14.3f}{more:+17.3f}{full / 1e12:13.3f}{local / full:12.0%}")
        before = local


if __name__ == "__main__":
    main()
