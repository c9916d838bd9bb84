"""Commands that continue from saved latents: upscale and decode."""

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
    from ..pipeline.writer import ClipWriter


def add_upscale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to", choices=("540p", "1080p"), default="540p", help="the size to upscale to (default: 540p)"
    )
    parser.add_argument(
        "--size",
        type=size,
        metavar="WIDTHxHEIGHT",
        help="the exact size (default: the largest of the clip's shape)",
    )
    parser.add_argument("--steps", type=int, help="number of steps (default: 5, or the clip's setting)")
    parser.add_argument(
        "--guidance",
        type=float,
        help="guidance scale; 1 is off (default: 1, or the clip's setting)",
    )
    parser.add_argument(
        "--negative-prompt",
        metavar="PROMPT",
        help="what to steer away from, where guidance is above 1 (default: the clip's)",
    )
    add_align_corners(parser)
    add_preview(parser)
    _add_files(parser)
    add_machine(parser)


def add_decode(parser: argparse.ArgumentParser) -> None:
    _add_files(parser)
    add_force(parser)
    parser.set_defaults(low_ram=None, dtype=None, dense_rows=None)  # these concern transformers


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", help="a clip made with --save-latents, or its .latents.safetensors file")
    parser.add_argument(
        "--model", "-m", help="the model, if it is no longer where it was (default: the clip's)"
    )
    parser.add_argument("--output", "-o", help="the file to write (default: beside the clip)")
    parser.add_argument("--metadata", action="store_true", help="also save the settings, as JSON")


def upscale(options: argparse.Namespace) -> None:
    """upscale a clip from its saved latents"""
    from ..pipeline.preview import PreviewFile
    from ..pipeline.writer import BASE, LATENTS, VIDEO, ClipWriter

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
    _finish(file, ClipWriter(output, settings=options.metadata), options, asked, preview)


def decode(options: argparse.Namespace) -> None:
    """decode saved latents to a clip"""
    from ..pipeline.writer import LATENTS, VIDEO, ClipWriter

    file = _latents_of(options.clip, (LATENTS,))
    beside = options.output is None
    output = str(file.with_name(_stem(file) + VIDEO)) if beside else options.output
    _finish(file, ClipWriter(output, settings=options.metadata, from_latents=beside), options, {})


def _finish(
    file: Path,
    writer: ClipWriter,
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
            writer.add(state)
        say_saved(writer.save(), started)
    finally:
        writer.discard()


def _stem(file: Path) -> str:
    from ..pipeline.writer import BASE, LATENTS

    return file.name.removesuffix(BASE).removesuffix(LATENTS)


def _latents_of(clip: str, endings: tuple[str, ...]) -> Path:
    """Return the file itself if it holds latents, else the first of the endings that lies beside it."""
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
        f"there are no latents beside {path} ({files[-1].name}). Save them with: "
        f"happyhorse generate --save-latents{again}"
    )
