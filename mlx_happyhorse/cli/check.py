from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import ModelError
from .terminal import counting_bytes, resumable, say


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", default="tiny", help="name, Hub repo or folder of a model (default: tiny)"
    )
    parser.add_argument("--fix", action="store_true", help="download damaged files again")


def run(options: argparse.Namespace) -> None:
    """verify every byte of a model: checksums, tensor names and shapes, NaN"""
    from ..storage import hub, verify

    folder = hub.find(options.model)
    components = [name for name in hub.describe(folder)["components"] if not _is_not_downloaded(folder, name)]
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
        found = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        advice = "" if options.fix else "repair it with --fix, or "
        raise ModelError(f"{folder} is damaged ({found}): {advice}download or convert it again.")
    say(f"{folder}: no problems found.")


def _is_not_downloaded(folder: Path, component: str) -> bool:
    """Return whether a component of a Hub repo is not in the cache, as no run has needed it yet."""
    from ..storage import hub

    return hub.repo_of(folder) is not None and not any((folder / component).glob("*.safetensors"))
