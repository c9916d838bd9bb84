from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import RequestError
from . import precision
from .terminal import converting, fetching, resumable, say, size

if TYPE_CHECKING:
    from ..convert import Planned


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="magihuman-distill, magihuman-base, or a Hub repo of a converted model")
    parser.add_argument(
        "--mlx-path", help="folder to write (default: in the cache, where it is found by the model's name)"
    )
    parser.add_argument(
        "--components",
        nargs="+",
        metavar="COMPONENT",
        help="components to download, added to those already there (default: all but the upscalers)",
    )
    parser.add_argument("--no-quantize", action="store_true", help="keep 16 bits, four times the size")
    precision.add(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="show sizes and licences without downloading anything"
    )


def run(options: argparse.Namespace) -> None:
    """download a model and quantize it on the fly: only the result takes disk space"""
    from ..convert import USUAL, download

    if "/" in options.model:
        _download_converted(options)
        return
    with converting() as show:
        folder = download(
            options.model,
            options.mlx_path,
            components=options.components or USUAL,
            dtype=options.dtype,
            quantization=precision.chosen(options, not options.no_quantize),
            recipe=options.quant_predicate or "uniform",
            dry_run=options.dry_run,
            on_plan=_say_plan,
            on_progress=show,
        )
    if not options.dry_run:
        model = options.mlx_path or folder.name
        say(f'Saved to {folder}\nTo use it: happyhorse generate "A red ball bounces." --model {model}')


def _download_converted(options: argparse.Namespace) -> None:
    """Download a converted model from the Hub, unchanged, into the Hub's cache."""
    from ..convert import Repo
    from ..storage import hub

    precision.chosen(options, quantize=False)
    if options.components or options.mlx_path:
        raise RequestError(
            f"{options.model} is already converted and is downloaded completely, into the Hub's cache: "
            "--components and --mlx-path have no effect."
        )
    if options.dry_run:
        repo, _, revision = options.model.partition("@")
        say(f"{options.model}: {size(Repo(repo, revision or None).size)}")
    else:
        with fetching() as show, resumable():
            folder = hub.download(options.model, show)
        say(f"Saved to {folder}")


def _say_plan(plan: list[Planned]) -> None:
    """Print each component's size to download, size on disk, repo and licence, and the totals."""
    for part in plan:
        gated = ", gated" if part.gated else ""
        sizes = f"{size(part.fetched):>9} → {size(part.stored):>9}"
        say(f"{part.component:<15} {sizes}  {part.repo}: {part.licence}{gated}")
    fetched, stored = sum(part.fetched for part in plan), sum(part.stored for part in plan)
    say(f"{'total':<15} {size(fetched):>9} → {size(stored):>9}")
