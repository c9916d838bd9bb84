"""Measure the error of quantized matrices while they are written."""

from __future__ import annotations

import math
from functools import lru_cache

import mlx.core as mx
import numpy as np

SAMPLED_ROWS = 256  # of every matrix, evenly spaced
ACTIVATIONS = 16  # random columns that a matrix is multiplied with
DIGITS = 5  # of reported errors: further digits differ between BLAS libraries

Squares = np.ndarray  # (4,) sums of squares: weight, weight error, output, output error
NO_SQUARES = np.zeros(4)


def measure(exact: mx.array, stored: mx.array) -> Squares:
    """Return the sums of squares of rows (n, k) and of their error as stored, and of both multiplied with
    random activations (k, ACTIVATIONS)."""
    exact, error = exact.astype(mx.float32), stored.astype(mx.float32) - exact.astype(mx.float32)
    x = mx.array(_activations(exact.shape[-1]))
    return np.array([mx.square(a).sum().item() for a in (exact, error, exact @ x, error @ x)])


@lru_cache(maxsize=8)
def _activations(width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((width, ACTIVATIONS), np.float32)


class Errors:
    """Accumulate the relative errors of a matrix, chunk by chunk."""

    def __init__(self) -> None:
        self.squares = NO_SQUARES

    def add(self, squares: Squares) -> None:
        self.squares = self.squares + squares

    def result(self) -> dict[str, float]:
        weight, weight_error, output, output_error = self.squares
        return {"weight_error": _ratio(weight_error, weight), "output_error": _ratio(output_error, output)}


def _ratio(error: float, exact: float) -> float:
    return round(math.sqrt(error / exact), DIGITS) if exact else 0.0
