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
        help="checkpoints: local folders or files, Hub repos, or a model folder to requantize; "
        "upscaler_540p=PATH if the folder name does not show that it is an upscaler",
    )
    parser.add_argument("--mlx-path", default="mlx_model", help="folder to write (default: mlx_model)")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    parser.add_argument(
        "--variant",
        choices=("base", "distill"),
        help="variant of the transformer (default: detected from its folder name)",
    )
    parser.add_argument("--quantize", "-q", action="store_true", help="quantize the large matrices")
    parser.add_argument("--dequantize", "-d", action="store_true", help="dequantize a quantized model")
    precision.add(parser)
    parser.add_argument("--upload-repo", metavar="OWNER/NAME", help="upload the folder to this Hub repo")


def run(options: argparse.Namespace) -> None:
    """convert PyTorch checkpoints to a model folder, optionally quantized"""
    from ..convert import convert, make_repo, upload

    quantization = precision.chosen(options, options.quantize)
    if options.upload_repo:
        make_repo(options.upload_repo)
    with converting() as show:
        notes = convert(
            options.sources,
            options.mlx_path,
            variant=options.variant,
            dtype=options.dtype,
            quantization=quantization,
            recipe=options.quant_predicate or "uniform",
            dequantize=options.dequantize,
            overwrite=options.overwrite,
            on_progress=show,
        )
    for line in notes:
        say(line)
    say(f"Saved to {options.mlx_path}")
    if options.upload_repo:
        say(f"Uploaded to {upload(options.mlx_path, options.upload_repo)}")
