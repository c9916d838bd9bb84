"""Commands that go on from latents which an earlier run kept."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from ..errors import RequestError
from .generate import add_align_corners, noting
from .output import LATENTS, VIDEO, Output
from .terminal import with_bars


def add_upscale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", choices=("540p", "1080p"), default="540p", help="(540p)")
    parser.add_argument("--steps", type=int, help="(5)")
    parser.add_argument("--guidance", type=float, help="how strictly to follow the prompt; 1 is none (1)")
    parser.add_argument("--negative-prompt", metavar="PROMPT", help="to avoid, where guidance is above 1")
    add_align_corners(parser)
    _add_files(parser)


def add_decode(parser: argparse.ArgumentParser) -> None:
    _add_files(parser)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", help="a clip made with --save-latents, or its .latents.safetensors file")
    parser.add_argument("--model", "-m", help="where the model is now, if not where it was")
    parser.add_argument("--output", "-o", help="the file to write (beside the clip)")
    parser.add_argument("--metadata", action="store_true", help="write the settings beside it too, as JSON")


def upscale(options: argparse.Namespace) -> None:
    """make a clip larger, from the latents kept with it"""
    asked = {
        "upscale": options.to,
        "upscale_steps": options.steps,
        "upscale_guidance": options.guidance,
        "negative_prompt": options.negative_prompt,
        "align_corners": options.align_corners,
    }
    _finish(options, f"_{options.to}", {name: value for name, value in asked.items() if value is not None})


def decode(options: argparse.Namespace) -> None:
    """make the clip of kept latents"""
    _finish(options, "", {})


def _finish(options: argparse.Namespace, suffix: str, asked: dict[str, Any]) -> None:
    from ..latents import Latents
    from ..pipeline import HappyHorse

    started = time.monotonic()
    file = _latents_file(Path(options.clip).expanduser())
    stem = file.name.removesuffix(LATENTS)
    output = Output(
        options.output or str(file.with_name(f"{stem}{suffix}{VIDEO}")), settings=options.metadata
    )
    if options.output is None and not suffix:
        output.kept = file
    latents = Latents.load(file)
    horse = HappyHorse.load(options.model or latents.settings["model"])
    *_, last = with_bars(noting(latents.settings, horse.finish(latents, **asked)))
    assert last.clip is not None
    output.save(last.clip, started)


def _latents_file(path: Path) -> Path:
    if not os.path.isfile(path):  # noqa: PTH113, Path.is_file raises for a name too long
        raise RequestError(f"there is no file {path}.")
    if path.name.endswith(LATENTS):
        return path
    file = path.with_suffix(LATENTS)
    if not file.is_file():
        raise RequestError(
            f"{path} has no latents beside it ({file.name}): make it with --save-latents, or again with "
            f"happyhorse generate --config-from-metadata {path} --upscale 540p"
        )
    return file
