"""What quantization did to a matrix, measured while it is written."""

from __future__ import annotations

import math
from functools import lru_cache

import mlx.core as mx
import numpy as np

SAMPLED_ROWS = 256  # of every matrix, evenly spread
ACTIVATIONS = 16
DIGITS = 5  # of a report: further ones differ between libraries of matrix products

Squares = np.ndarray  # sums of squares: of a matrix and its error, of its products and theirs
NO_SQUARES = np.zeros(4)


def measure(exact: mx.array, stored: mx.array) -> Squares:
    """Rows (n, k) of a matrix and of what became of them, alone and multiplied with random activations."""
    exact, error = exact.astype(mx.float32), stored.astype(mx.float32) - exact.astype(mx.float32)
    x = mx.array(_activations(exact.shape[-1]))
    return np.array([mx.square(a).sum().item() for a in (exact, error, exact @ x, error @ x)])


@lru_cache(maxsize=8)
def _activations(width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((width, ACTIVATIONS), np.float32)


class Errors:
    """Relative errors of a matrix and of its products, from what was measured of its pieces."""

    def __init__(self) -> None:
        self.squares = NO_SQUARES

    def add(self, squares: Squares) -> None:
        self.squares = self.squares + squares

    def result(self) -> dict[str, float]:
        weight, weight_error, output, output_error = self.squares
        return {"weight_error": _ratio(weight_error, weight), "output_error": _ratio(output_error, output)}


def _ratio(error: float, of: float) -> float:
    return round(math.sqrt(error / of), DIGITS) if of else 0.0
