from __future__ import annotations

import argparse
from typing import Any

from ..errors import HappyHorseError
from ..files import expanded, written_beside
from .generate import add_machine, machine, size
from .terminal import printable, say

SETTINGS = ("seconds", "width", "height", "steps", "upscale", "upscale_size")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", "-m", default="tiny", help="a name, a Hub repo or a folder (tiny)")
    parser.add_argument("--seconds", type=float, help="length of the clip (the model's own)")
    parser.add_argument("--width", type=int, help="its width in pixels (the model's own)")
    parser.add_argument("--height", type=int, help="the same")
    parser.add_argument("--steps", type=int, help="steps of denoising (the model's own)")
    parser.add_argument("--upscale", choices=("540p", "1080p"), help="upscale it as well")
    parser.add_argument("--upscale-size", type=size, metavar="WIDTHxHEIGHT", help="exactly so large")
    parser.add_argument("--runs", type=int, default=2, help="two or more, the first one cold (2)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    add_machine(parser)


def run(options: argparse.Namespace) -> None:
    """time a model on this machine, stage by stage"""
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
            with written_beside(path) as beside:
                beside.write_text(report.json() + "\n", encoding="utf-8")
        except OSError as error:
            raise HappyHorseError(f"{path} could not be written: {error.strerror}.") from error
        say(f"{path}: written")
