from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import ModelError
from .terminal import counting_bytes, resumable, say


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="tiny", help="a name, a Hub repo or a folder (tiny)")
    parser.add_argument("--fix", action="store_true", help="fetch again what is broken")


def run(options: argparse.Namespace) -> None:
    """look at every byte of a model: hashes, names, shapes, NaN"""
    from ..storage import hub, verify

    folder = hub.find(options.model)
    components = [name for name in hub.describe(folder)["components"] if not _is_left_out(folder, name)]
    with counting_bytes("Checking", verify.size(folder, components)) as count:
        problems = verify.check(folder, components, count)
    for problem in problems:
        say(str(problem))
    if problems and options.fix:
        from ..convert import fix

        with counting_bytes("Fetching", None) as count, resumable():
            fix(folder, problems, count)
        problems = verify.check(folder, components)
    if problems:
        advice = "" if options.fix else ", or try --fix"
        raise ModelError(f"{folder} is damaged in {len(problems)} places: get or convert it anew{advice}.")
    say(f"{folder} is whole.")


def _is_left_out(folder: Path, component: str) -> bool:
    """Of a Hub repo only what a run needs is fetched."""
    from ..storage import hub

    return hub.repo_of(folder) is not None and not any((folder / component).glob("*.safetensors"))
