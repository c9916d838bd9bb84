from __future__ import annotations

import argparse
from typing import Any

from .terminal import printable


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", help="an mp4 file, or the JSON file beside it")


def run(options: argparse.Namespace) -> None:
    """show what a clip was made of"""
    from .. import metadata

    settings = metadata.read(options.clip)
    prompt = str(settings.pop("prompt", ""))
    for name, value in settings.items():
        if name not in ("made_with", "format") and value is not None:
            print(printable(f"{name.replace('_', ' '):<18}{_plain(value)}"))
    print(f"prompt\n{printable(prompt)}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item is not None)
    return str(value)
