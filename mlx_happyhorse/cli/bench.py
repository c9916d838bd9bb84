from __future__ import annotations

import argparse
from typing import Any

from ..errors import HappyHorseError
from ..files import atomic_write, expanded
from .generate import add_machine, machine, size
from .terminal import printable, say

SETTINGS = ("seconds", "width", "height", "steps", "upscale", "upscale_size")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", "-m", default="tiny", help="a model's name, a Hub repo or a folder (default: tiny)"
    )
    parser.add_argument("--seconds", type=float, help="length of the clip (default: the model's)")
    parser.add_argument("--width", type=int, help="width in pixels (default: the model's)")
    parser.add_argument("--height", type=int, help="height in pixels (default: the model's)")
    parser.add_argument("--steps", type=int, help="number of denoising steps (default: the model's)")
    parser.add_argument("--upscale", choices=("540p", "1080p"), help="also upscale the clip")
    parser.add_argument(
        "--upscale-size", type=size, metavar="WIDTHxHEIGHT", help="the exact size to upscale to"
    )
    parser.add_argument("--runs", type=int, default=2, help="number of runs, the first one cold (default: 2)")
    parser.add_argument("--json", metavar="FILE", help="save the figures as JSON")
    add_machine(parser)


def run(options: argparse.Namespace) -> None:
    """benchmark a model on this machine, stage by stage"""
    from ..pipeline.bench import bench
    from ..pipeline.happyhorse import HappyHorse
    from .terminal import Bars

    horse = HappyHorse.load(options.model, **machine(options))
    given = {name: getattr(options, name) for name in SETTINGS}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    report = bench(horse, settings, options.runs, Bars().over, options.force)
    print(printable(report.table()))
    print(printable(str(report)))
    if options.json is not None:
        path = expanded(options.json)
        try:
            with atomic_write(path) as beside:
                beside.write_text(report.json() + "\n", encoding="utf-8")
        except OSError as error:
            raise HappyHorseError(f"{path} could not be written: {error.strerror}.") from error
        say(f"Saved: {path}")
