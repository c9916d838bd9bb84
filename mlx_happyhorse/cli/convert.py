from __future__ import annotations

import argparse

from .terminal import say


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hf-path",
        "--model",
        dest="sources",
        nargs="+",
        required=True,
        metavar="[COMPONENT=]PATH",
        help="checkpoints: folders or files; upscaler_540p=PATH where the folder's name does not tell",
    )
    parser.add_argument("--mlx-path", default="mlx_model", help="the folder to write (mlx_model)")
    parser.add_argument("--variant", choices=("base", "distill"), help="if the folder's name does not tell")
    parser.add_argument("--dtype", default="bfloat16", help="of large matrices: float16, float32 (bfloat16)")
    parser.add_argument("--quantize", "-q", action="store_true", help="quantize the large matrices")
    parser.add_argument("--q-bits", type=int, default=4, choices=(4, 8), help="bits per weight (4)")
    parser.add_argument("--q-group-size", type=int, default=64, choices=(32, 64, 128), help="(64)")


def run(options: argparse.Namespace) -> None:
    """turn published PyTorch checkpoints into a model folder"""
    from ..convert import Quantization, convert

    how = Quantization(options.q_bits, options.q_group_size) if options.quantize else None
    for line in convert(
        options.sources,
        options.mlx_path,
        variant=options.variant,
        dtype=options.dtype,
        quantization=how,
    ):
        say(line)
    say(f"Written: {options.mlx_path}")
