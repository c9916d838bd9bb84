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
        "--mlx-path", help="the folder to write (one of the cache, found by the model's name)"
    )
    parser.add_argument(
        "--components", nargs="+", help="only these, added to what is there (all but the upscalers)"
    )
    parser.add_argument("--no-quantize", action="store_true", help="keep 16 bits: four times the size")
    precision.add(parser)
    parser.add_argument("--dry-run", action="store_true", help="show sizes and licences, fetch nothing")


def run(options: argparse.Namespace) -> None:
    """get a model, quantized on the way: nothing larger than the result is ever on the disk"""
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
        say(f'Here: {folder}\nUse it with: happyhorse generate "…" --model {options.mlx_path or folder.name}')


def _download_converted(options: argparse.Namespace) -> None:
    """A model of ours that somebody published, as it is."""
    from ..convert import Repo
    from ..storage import hub

    precision.chosen(options, wanted=False)
    if options.components or options.mlx_path:
        raise RequestError(f"{options.model} is converted already: all of it goes into the Hub's cache.")
    if options.dry_run:
        repo, _, revision = options.model.partition("@")
        say(f"{options.model}: {size(Repo(repo, revision or None).size)}")
    else:
        with fetching() as show, resumable():
            folder = hub.download(options.model, show)
        say(f"Here: {folder}")


def _say_plan(plan: list[Planned]) -> None:
    for part in plan:
        gated = ", gated" if part.gated else ""
        amounts = f"{size(part.fetched):>9} → {size(part.stored):>9}"
        say(f"{part.component:<15} {amounts}  {part.repo}: {part.licence}{gated}")
    fetched, stored = sum(part.fetched for part in plan), sum(part.stored for part in plan)
    say(f"{'in all':<15} {size(fetched):>9} → {size(stored):>9}")
