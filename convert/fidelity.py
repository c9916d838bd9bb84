"""What quantization did to a matrix, measured while it is written."""

from __future__ import annotations

import math

import mlx.core as mx

SAMPLED_ROWS = 256  # of every matrix, evenly spread
ACTIVATIONS = 16


class Errors:
    """Relative errors of a matrix, and of its products with random activations."""

    def __init__(self, rows: int):
        self.every = max(rows // SAMPLED_ROWS, 1)
        self.sums = [0.0] * 4

    def measure(self, exact: mx.array, approximate: mx.array) -> list[mx.array]:
        """Squares summed over rows (n, k): of the matrix and its error, of the products and theirs."""
        exact, approximate = exact.astype(mx.float32), approximate.astype(mx.float32)
        x = mx.random.normal((exact.shape[-1], ACTIVATIONS), key=mx.random.key(0))
        error = approximate - exact
        return [mx.square(a).sum() for a in (exact, error, exact @ x, error @ x)]

    def add(self, squares: list[mx.array]) -> None:
        self.sums = [total + square.item() for total, square in zip(self.sums, squares, strict=True)]

    def result(self) -> dict[str, float]:
        weight, weight_error, output, output_error = self.sums
        return {
            "weight_error": math.sqrt(weight_error / weight) if weight else 0.0,
            "output_error": math.sqrt(output_error / output) if output else 0.0,
        }
