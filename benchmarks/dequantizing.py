"""From how many rows on a quantized matrix is multiplied faster if it is dequantized first.

python benchmarks/dequantizing.py

For 4 and 8 bits in fp32 and bf16, and rows 1, 2, 4 …: milliseconds of MLX's quantized product and of ours
with `dense_rows` 1, their ratio, the largest difference of the results in relation to the largest number,
and in the same way how far either is from the product in fp32; above, what of that is rounding. Then the
number of rows from which dense stays faster, for `Chip.dense_rows`. A 2048 × 2048 matrix on a processor,
where a series ends when a product takes more than 3 s; the published sizes on a GPU.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable
from contextlib import suppress
from statistics import median

with suppress(OSError):
    ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)

import mlx.core as mx
import mlx.nn as nn

from mlx_happyhorse.models.matmul import Work, linear

GPU = mx.default_device() == mx.gpu
SIZES = [(5120, 27392), (13696, 5120)] if GPU else [(2048, 2048)]  # inputs, outputs
ROWS = [2**i for i in range(14 if GPU else 12)]
PATIENCE = 3.0  # seconds
REPEATED = 0.3  # seconds of measuring, or as many as one product takes
ROUNDING = {mx.float32: 2.0**-24, mx.bfloat16: 2.0**-8}  # the largest, of one number
DENSE = Work(dense_rows=1)


def matrix(inputs: int, outputs: int, bits: int, dtype: mx.Dtype) -> nn.QuantizedLinear:
    layer = nn.Linear(inputs, outputs, bias=False)
    layer.set_dtype(dtype)
    quantized = nn.QuantizedLinear.from_linear(layer, 64, bits)
    mx.eval(quantized.parameters())
    return quantized


def seconds(product: Callable[[], mx.array]) -> tuple[float, mx.array]:
    """The median of a few, the first left out unless it takes long by itself."""
    times = [math.inf]
    while len(times) < 2 or (math.fsum(times[1:]) < REPEATED and times[0] < PATIENCE):
        started = time.perf_counter()
        out = product()
        mx.eval(out)
        times.append(time.perf_counter() - started)
        if times[0] == math.inf:
            times = [times[1]]
    return median(times[1:] or times), out


def series(layer: nn.QuantizedLinear, inputs: int, dtype: mx.Dtype) -> list[tuple[int, float]]:
    """Prints a line for each number of rows; returns these with quantized by dense time."""
    ratios = []
    for rows in ROWS:
        x = mx.random.normal((rows, inputs)).astype(dtype)
        mx.eval(x)
        slow, expected = seconds(lambda x=x: layer(x))
        fast, out = seconds(lambda x=x: linear(layer, x, DENSE))
        ratios.append((rows, slow / fast))
        exact = x.astype(mx.float32) @ _dequantized(layer).T
        gaps = _difference(out, expected), _difference(expected, exact), _difference(out, exact)
        print(f"{rows:7}{slow * 1e3:13.2f}{fast * 1e3:11.2f}{slow / fast:11.2f}", end="")
        print("".join(f"{gap:12.1e}" for gap in gaps), flush=True)
        if slow > PATIENCE:
            break
    return ratios


def _dequantized(layer: nn.QuantizedLinear) -> mx.array:
    parts = layer.weight, *(x.astype(mx.float32) for x in (layer.scales, layer.biases))
    return mx.dequantize(*parts, layer.group_size, layer.bits)


def _difference(out: mx.array, expected: mx.array) -> float:
    a, b = out.astype(mx.float32), expected.astype(mx.float32)
    return (mx.abs(a - b).max() / mx.abs(b).max()).item()


def crossover(ratios: list[tuple[int, float]]) -> int | None:
    """The first number of rows from which dense stays faster."""
    first = None
    for rows, ratio in ratios:
        first = (first or rows) if ratio > 1 else None
    return first


def main() -> None:
    mx.random.seed(0)
    print(mx.device_info().get("device_name", mx.default_device()))
    for inputs, outputs in SIZES:
        for bits in (4, 8):
            for dtype, one in ROUNDING.items():
                of_sum = 2 * max(one, 2.0**-24 * math.sqrt(inputs))  # either result's
                print(f"\n{inputs} → {outputs}, {bits} bits, {dtype}; up to {of_sum:.1e} is rounding")
                print("   rows quantized ms   dense ms      ratio  difference   quantized       dense")
                first = crossover(series(matrix(inputs, outputs, bits, dtype), inputs, dtype))
                print(
                    f"dense stays faster from {first} rows on" if first else "dense is not faster at the end"
                )


if __name__ == "__main__":
    main()
