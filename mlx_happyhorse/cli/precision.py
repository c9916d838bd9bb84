"""Flags of `convert` and `download` for the precision of the stored weights."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import RequestError

if TYPE_CHECKING:
    from ..convert import Quantization


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        default="bfloat16",
        help="dtype of the large matrices: bfloat16, float16 or float32 (default: bfloat16)",
    )
    parser.add_argument(
        "--q-bits",
        type=int,
        help="bits per quantized weight: 2, 3, 4, 5, 6 or 8 (default: 4, or what the mode requires)",
    )
    parser.add_argument(
        "--q-group-size",
        type=int,
        help="quantization group size: 32, 64 or 128 (default: 64, or what the mode requires)",
    )
    parser.add_argument("--q-mode", help="quantization mode: affine, mxfp4, mxfp8 or nvfp4 (default: affine)")
    parser.add_argument(
        "--quant-predicate",
        metavar="RECIPE",
        help="mixed precision: the matrices that get more bits: uniform (none), shared (layers without "
        "experts), down (down projections) or ends (first and last two layers) (default: uniform)",
    )


def chosen(options: argparse.Namespace, quantize: bool) -> Quantization | None:
    """Return the requested quantization, None without `quantize`.

    Raise RequestError for flags that have no effect, or an unsupported combination."""
    from ..convert import Quantization

    if quantize:
        return Quantization(options.q_bits or 0, options.q_group_size or 0, options.q_mode or "affine")
    for flag in ("--q-bits", "--q-group-size", "--q-mode", "--quant-predicate"):
        if getattr(options, flag[2:].replace("-", "_")) is not None:
            raise RequestError(f"{flag} has no effect: nothing is quantized.")
    return None
