from __future__ import annotations

import argparse

from . import precision
from .terminal import converting, say


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hf-path",
        "--model",
        dest="sources",
        nargs="+",
        required=True,
        metavar="[COMPONENT=]PATH",
        help="checkpoints: folders or files, or a model folder to quantize anew; "
        "upscaler_540p=PATH where the folder's name does not tell",
    )
    parser.add_argument("--mlx-path", default="mlx_model", help="the folder to write (mlx_model)")
    parser.add_argument("--overwrite", action="store_true", help="replace that folder when all is written")
    parser.add_argument("--variant", choices=("base", "distill"), help="if the folder's name does not tell")
    parser.add_argument("--quantize", "-q", action="store_true", help="quantize the large matrices")
    parser.add_argument(
        "--dequantize", "-d", action="store_true", help="turn quantized weights back into 16 bits"
    )
    precision.add(parser)
    parser.add_argument("--upload-repo", metavar="OWNER/NAME", help="publish the folder on the Hub")


def run(options: argparse.Namespace) -> None:
    """turn published PyTorch checkpoints into a model folder"""
    from ..convert import convert, make_repo, upload

    how = precision.chosen(options, options.quantize)
    if options.upload_repo:
        make_repo(options.upload_repo)
    with converting() as show:
        notes = convert(
            options.sources,
            options.mlx_path,
            variant=options.variant,
            dtype=options.dtype,
            quantization=how,
            recipe=options.quant_predicate or "uniform",
            dequantize=options.dequantize,
            overwrite=options.overwrite,
            on_progress=show,
        )
    for line in notes:
        say(line)
    say(f"Written: {options.mlx_path}")
    if options.upload_repo:
        say(f"Published: {upload(options.mlx_path, options.upload_repo)}")
