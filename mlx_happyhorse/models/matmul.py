"""Matrix products as a chip likes them: split into dispatches, quantized weights expanded where that pays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn

WIDE = 10_000  # inputs from which a dense weight is multiplied faster, by many rows, if it lies the other way
MANY = 512
EXPANDED = 1 << 25  # elements of a quantized matrix that are dequantized at a time


@dataclass(frozen=True)
class Work:
    """How much a chip is given to do at once, so that it stays responsive and memory small.

    `flops` are those of one dispatch, `rows` the tokens that pass an MLP together; from `dense_rows` rows on
    a quantized matrix is dequantized first and multiplied as a dense one. `share` tells what part this is of
    the usual work."""

    flops: float = math.inf
    rows: int = 1 << 30
    dense_rows: float = math.inf
    share: float = 1

    def times(self, share: float) -> Work:
        """The same split finer: this share of the operations and rows at a time."""
        rows = max(int(self.rows * share), 1)
        return replace(self, flops=self.flops * share, rows=rows, share=self.share * share)

    def most_rows(self, flops_per_row: float) -> int:
        """Rows that may be worked on together where each takes so many operations."""
        return max(int(min(self.rows, self.flops / max(flops_per_row, 1))), 1)


UNLIMITED = Work()


def split(rows: slice, most: int) -> Iterator[slice]:
    """Slices of at most so many rows, about equal."""
    count = rows.stop - rows.start
    parts = math.ceil(count / most)
    for i in range(parts):
        yield slice(rows.start + i * count // parts, rows.start + (i + 1) * count // parts)


def linear(layer: nn.Module, x: mx.array, work: Work) -> mx.array:
    """x (n, inputs) → (n, outputs) through an nn.Linear or nn.QuantizedLinear without bias."""
    wide = x.shape[-1] >= WIDE and len(x) >= MANY
    if not isinstance(layer, nn.QuantizedLinear):
        return x @ mx.contiguous(layer.weight.T) if wide else layer(x)
    if len(x) < work.dense_rows:
        return layer(x)
    out = []
    for rows in split(slice(0, len(layer.scales)), max(EXPANDED // x.shape[-1], 1)):
        weight = _dequantized(layer, rows, x.dtype).T
        out.append(x @ (mx.contiguous(weight) if wide else weight))
        mx.eval(out[-1])
    return join(out, axis=-1)


def _dequantized(layer: nn.Module, rows: slice, dtype: mx.Dtype) -> mx.array:
    biases = layer.get("biases")
    parts = layer.weight[rows], layer.scales[rows], None if biases is None else biases[rows]
    return mx.dequantize(*parts, layer.group_size, layer.bits, layer.mode, dtype=dtype)


def join(parts: list[mx.array], axis: int = 0) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis)
