"""Commands that go on from latents which an earlier run kept."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..files import expanded
from .generate import (
    add_align_corners,
    add_force,
    add_machine,
    add_preview,
    machine,
    model_of,
    noting,
    previewing,
    size,
)
from .terminal import Bars, say_saved

if TYPE_CHECKING:
    from ..pipeline.preview import PreviewFile
    from ..pipeline.writer import Output


def add_upscale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", choices=("540p", "1080p"), default="540p", help="(540p)")
    parser.add_argument(
        "--size", type=size, metavar="WIDTHxHEIGHT", help="exactly so large (as 540p or 1080p holds)"
    )
    parser.add_argument("--steps", type=int, help="(5, or what its run asked for)")
    parser.add_argument(
        "--guidance",
        type=float,
        help="how strictly to follow the prompt (1, none, or what its run asked for)",
    )
    parser.add_argument(
        "--negative-prompt", metavar="PROMPT", help="to avoid, where guidance is above 1 (the clip's)"
    )
    add_align_corners(parser)
    add_preview(parser)
    _add_files(parser)
    add_machine(parser)


def add_decode(parser: argparse.ArgumentParser) -> None:
    _add_files(parser)
    add_force(parser)
    parser.set_defaults(low_ram=None, dtype=None, dense_rows=None)  # of transformers


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", help="a clip made with --save-latents, or its .latents.safetensors file")
    parser.add_argument("--model", "-m", help="where the model is now, if not where it was")
    parser.add_argument("--output", "-o", help="the file to write (beside the clip)")
    parser.add_argument("--metadata", action="store_true", help="write the settings beside it too, as JSON")


def upscale(options: argparse.Namespace) -> None:
    """make a clip larger, from the latents kept with it"""
    from ..pipeline.preview import PreviewFile
    from ..pipeline.writer import BASE, LATENTS, VIDEO, Output

    asked = {
        "upscale": options.to,
        "upscale_size": options.size,
        "upscale_steps": options.steps,
        "upscale_guidance": options.guidance,
        "upscale_negative_prompt": options.negative_prompt,
        "align_corners": options.align_corners,
    }
    file = _latents_of(options.clip, (BASE, LATENTS))
    output = options.output or str(file.with_name(f"{_stem(file)}_{options.to}{VIDEO}"))
    preview = None if options.preview is None else PreviewFile(options.preview)
    _finish(file, Output(output, settings=options.metadata), options, asked, preview)


def decode(options: argparse.Namespace) -> None:
    """make the clip of kept latents"""
    from ..pipeline.writer import LATENTS, VIDEO, Output

    file = _latents_of(options.clip, (LATENTS,))
    beside = options.output is None
    output = str(file.with_name(_stem(file) + VIDEO)) if beside else options.output
    _finish(file, Output(output, settings=options.metadata, from_latents=beside), options, {})


def _finish(
    file: Path,
    output: Output,
    options: argparse.Namespace,
    asked: dict[str, Any],
    preview: PreviewFile | None = None,
) -> None:
    from ..outputs.latents import Latents
    from ..pipeline.happyhorse import HappyHorse

    started = time.monotonic()
    latents = Latents.load(file)
    model = model_of(latents.settings) if options.model is None else options.model
    horse = HappyHorse.load(model, **machine(options))
    asked = {name: value for name, value in asked.items() if value is not None}
    bars = Bars()
    states = horse.finish(
        latents,
        force=options.force,
        keep_frames=False,
        preview=preview is not None,
        on_block=bars.on_block,
        **asked,
    )
    try:
        for state in bars.over(previewing(noting(latents.settings, states), preview)):
            output.take(state)
        say_saved(output.save(), started)
    finally:
        output.drop()


def _stem(file: Path) -> str:
    from ..pipeline.writer import BASE, LATENTS

    return file.name.removesuffix(BASE).removesuffix(LATENTS)


def _latents_of(clip: str, endings: tuple[str, ...]) -> Path:
    """The file itself, if it holds latents, or the first of those endings beside it."""
    from ..pipeline.writer import LATENTS, VIDEO

    path = expanded(clip)
    if not os.path.isfile(path):  # noqa: PTH113, Path.is_file raises for a name too long
        raise RequestError(f"there is no file {path}.")
    if path.name.endswith(LATENTS):
        return path
    files = [path.with_suffix(ending) for ending in endings]
    for file in files:
        if os.path.isfile(file):  # noqa: PTH113
            return file
    again = f" --config-from-metadata {path}" if path.suffix == VIDEO else ""
    raise RequestError(
        f"{path} has no latents beside it ({files[-1].name}). They are kept by: "
        f"happyhorse generate --save-latents{again}"
    )
