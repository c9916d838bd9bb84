"""Print from how many rows on a quantized matrix is multiplied faster if it is dequantized first.

python benchmarks/dequantizing.py [--rows 2048] [--sizes 2048x2048 ...] [--seconds 0.3]

For 4 and 8 bits in fp32 and bf16, and rows 1, 2, 4 …: milliseconds of MLX's quantized product and of ours
with `dense_rows` 1, their ratio, the largest difference of the results in relation to the largest number,
and in the same way how far either is from the product in fp32; above, what of that is rounding. Then the
number of rows from which dense stays faster, for `Chip.dense_rows`. By default a 2048 × 2048 matrix on a
CPU, where a series ends when a product takes more than 3 s, and the published sizes on a GPU; every product
is measured for so many seconds.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import helpers.openblas  # noqa: F401  before MLX
import mlx.core as mx
import mlx.nn as nn

from mlx_happyhorse.models.matmul import Work, linear

GPU = mx.default_device() == mx.gpu
SIZES = ["5120x27392", "13696x5120"] if GPU else ["2048x2048"]  # inputs, outputs
ROWS = 8192 if GPU else 2048
PATIENCE = 3.0  # seconds
ROUNDING = {mx.float32: 2.0**-24, mx.bfloat16: 2.0**-8}  # the largest, of one number
DENSE = Work(dense_rows=1)


def matrix(inputs: int, outputs: int, bits: int, dtype: mx.Dtype) -> nn.QuantizedLinear:
    layer = nn.Linear(inputs, outputs, bias=False)
    layer.set_dtype(dtype)
    quantized = nn.QuantizedLinear.from_linear(layer, 64, bits)
    mx.eval(quantized.parameters())
    return quantized


def seconds(product: Callable[[], mx.array], measured: float) -> tuple[float, mx.array]:
    """The median of a few, the first left out unless it takes long by itself."""
    times: list[float] = []
    while len(times) < 2 or (math.fsum(times[1:]) < measured and times[0] < PATIENCE):
        started = time.perf_counter()
        out = product()
        mx.eval(out)
        times.append(time.perf_counter() - started)
        if times[0] >= PATIENCE:
            break
    return median(times[1:] or times), out


def series(
    layer: nn.QuantizedLinear, inputs: int, dtype: mx.Dtype, most: int, measured: float
) -> list[tuple[int, float]]:
    """Print a line for each number of rows; return these with quantized by dense time."""
    ratios = []
    for rows in (2**i for i in range(most.bit_length())):
        x = mx.random.normal((rows, inputs)).astype(dtype)
        mx.eval(x)
        slow, expected = seconds(partial(layer, x), measured)
        fast, out = seconds(partial(linear, layer, x, DENSE), measured)
        ratios.append((rows, slow / fast))
        exact = x.astype(mx.float32) @ _dequantized(layer).T
        gaps = _difference(out, expected), _difference(expected, exact), _difference(out, exact)
        print(f"{rows:7}{slow * 1e3:13.2f}{fast * 1e3:11.2f}{slow / fast:11.2f}", end="")
        print("".join(f"{gap:12.1e}" for gap in gaps), flush=True)
        if slow > PATIENCE:
            break
    return ratios


def _dequantized(layer: nn.QuantizedLinear) -> mx.array:
    scales, biases = (x.astype(mx.float32) for x in (layer.scales, layer["biases"]))
    return mx.dequantize(layer.weight, scales, biases, layer.group_size, layer.bits)


def _difference(out: mx.array, expected: mx.array) -> float:
    a, b = out.astype(mx.float32), expected.astype(mx.float32)
    return float(mx.abs(a - b).max() / mx.abs(b).max())


def crossover(ratios: list[tuple[int, float]]) -> int | None:
    """The first number of rows from which dense stays faster."""
    first = None
    for rows, ratio in ratios:
        first = (first or rows) if ratio > 1 else None
    return first


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="INPUTSxOUTPUTS")
    parser.add_argument("--seconds", type=float, default=0.3)
    options = parser.parse_args(arguments)
    mx.random.seed(0)
    print(mx.device_info().get("device_name", mx.default_device()))
    for size in options.sizes:
        inputs, outputs = map(int, size.split("x"))
        for bits in (4, 8):
            for dtype, one in ROUNDING.items():
                of_sum = 2 * max(one, 2.0**-24 * math.sqrt(inputs))  # either result's
                print(f"\n{inputs} → {outputs}, {bits} bits, {dtype}; up to {of_sum:.1e} is rounding")
                print("   rows quantized ms   dense ms      ratio  difference   quantized       dense")
                layer = matrix(inputs, outputs, bits, dtype)
                first = crossover(series(layer, inputs, dtype, options.rows, options.seconds))
                print(
                    f"dense stays faster from {first} rows on" if first else "dense is not faster at the end"
                )


if __name__ == "__main__":
    main()
