"""Matrix products in dispatches that suit a chip, with quantized weights dequantized where that is faster."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn

# Max chips multiply dense weights of at least so many inputs 5 to 30 % faster where they are stored
# transposed (measured by other projects, in fp16). Few rows do not repay the transposition.
WIDE = 10_000
MANY = 512
DEQUANTIZED = 1 << 25  # elements of a quantized matrix that are dequantized at a time: 64 MiB in 16 bits


@dataclass(frozen=True)
class Work:
    """The work that a chip does at a time, limited so that it stays responsive and temporary memory small.

    `flops` limits one dispatch, `rows` the tokens that pass an MLP together. From `dense_rows` rows on, a
    quantized matrix is dequantized first and multiplied as a dense one. `share` is the fraction of the usual
    work that this is."""

    flops: float = math.inf
    rows: int = 1 << 30
    dense_rows: float = math.inf
    share: float = 1

    def times(self, share: float) -> Work:
        """Return a finer split: this share of the operations and rows at a time."""
        rows = max(int(self.rows * share), 1)
        return replace(self, flops=self.flops * share, rows=rows, share=self.share * share)

    def max_rows(self, flops_per_row: float) -> int:
        """Return how many rows may be computed together where each takes so many operations."""
        return max(int(min(self.rows, self.flops / max(flops_per_row, 1))), 1)


UNLIMITED = Work()


def split(rows: slice, max_rows: int) -> Iterator[slice]:
    """Yield slices of about equal length, of at most `max_rows` rows."""
    count = rows.stop - rows.start
    parts = math.ceil(count / max_rows)
    for i in range(parts):
        yield slice(rows.start + i * count // parts, rows.start + (i + 1) * count // parts)


def linear(layer: nn.Module, x: mx.array, work: Work) -> mx.array:
    """Apply an nn.Linear or nn.QuantizedLinear without bias: x (n, inputs) → (n, outputs)."""
    wide = x.shape[-1] >= WIDE and len(x) >= MANY
    if not isinstance(layer, nn.QuantizedLinear):
        return x @ mx.contiguous(layer.weight.T) if wide else layer(x)
    if len(x) < work.dense_rows:
        return layer(x)
    out = []
    for rows in split(slice(0, len(layer.scales)), max(DEQUANTIZED // x.shape[-1], 1)):
        weight = _dequantize(layer, rows, x.dtype).T
        out.append(x @ (mx.contiguous(weight) if wide else weight))
        mx.eval(out[-1])  # before the next rows are dequantized: only one such matrix is alive at a time
    return join(out, axis=-1)


def _dequantize(layer: nn.Module, rows: slice, dtype: mx.Dtype) -> mx.array:
    biases = layer.get("biases")
    parts = layer.weight[rows], layer.scales[rows], None if biases is None else biases[rows]
    return mx.dequantize(*parts, layer.group_size, layer.bits, layer.mode, dtype=dtype)


def join(parts: list[mx.array], axis: int = 0) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis)
