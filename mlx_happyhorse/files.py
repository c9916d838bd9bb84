"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from .errors import RequestError


def expanded(path: str | Path) -> Path:
    """The path, with the folder that ~ or ~name stand for. Raises RequestError if there is none."""
    if not str(path):
        raise RequestError("a file's name is empty.")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RequestError(f"{path} begins with a home folder that does not exist.") from error


def home() -> Path:
    """Return the cache folder: $HAPPYHORSE_HOME, or ~/.cache/mlx_happyhorse."""
    return expanded(os.environ.get("HAPPYHORSE_HOME") or "~/.cache/mlx_happyhorse")


@contextmanager
def partial_beside(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write to, and to rename when complete; else it is removed."""
    beside = path.with_name(f".{secrets.token_hex(6)}.partial")
    try:
        yield beside
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        else:
            beside.unlink(missing_ok=True)


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write to: renamed to `path` in the end, removed on any failure."""
    with partial_beside(path) as beside:
        yield beside
        beside.replace(path)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object; an empty one if there is none, or it is damaged."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def store_object(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file that no run depends on: a disk that cannot be written is no reason to fail."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as beside:
            beside.write_text(json.dumps(values))
    except OSError:
        return


def numbered(path: Path) -> Iterator[Path]:
    """`path`, then name_1, name_2 … beside it."""
    yield path
    for n in count(1):
        yield path.with_name(f"{path.stem}_{n}{path.suffix}")


def rename_to_free(path: Path, target: Path) -> Path:
    """Gives `path` the first of `target`, target_1 … that nothing has; returns it."""
    for candidate in numbered(target):
        try:
            os.link(path, candidate)
            return candidate
        except FileExistsError:
            continue
        except OSError:  # a disk without hard links, exFAT say
            if not candidate.exists():
                return path.rename(candidate)
    raise AssertionError
