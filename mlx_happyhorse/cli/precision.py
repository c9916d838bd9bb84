"""The flags of `convert` and `download` that say in what precision weights are stored."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import RequestError

if TYPE_CHECKING:
    from ..convert import Quantization


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", default="bfloat16", help="of large matrices: float16, float32 (bfloat16)")
    parser.add_argument("--q-bits", type=int, help="bits per weight: 2, 3, 4, 5, 6 or 8 (4)")
    parser.add_argument("--q-group-size", type=int, help="weights that share a scale: 32, 64 or 128 (64)")
    parser.add_argument("--q-mode", help="affine, mxfp4, mxfp8 or nvfp4 (affine)")
    parser.add_argument(
        "--quant-predicate",
        metavar="RECIPE",
        help="uniform, shared, down or ends: which matrices get a step more (uniform)",
    )


def chosen(options: argparse.Namespace, wanted: bool) -> Quantization | None:
    """How to quantize, if that is wanted. Raises RequestError for flags that would do nothing."""
    from ..convert import Quantization

    if wanted:
        return Quantization(options.q_bits or 0, options.q_group_size or 0, options.q_mode or "affine")
    for flag in ("--q-bits", "--q-group-size", "--q-mode", "--quant-predicate"):
        if getattr(options, flag[2:].replace("-", "_")) is not None:
            raise RequestError(f"{flag} does nothing where nothing is quantized.")
    return None
