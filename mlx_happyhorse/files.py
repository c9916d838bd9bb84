"""Files and folders that appear complete or not at all, and the paths that users give."""

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
    """Return the path with ~ or ~name expanded. Raise RequestError if there is no such home folder."""
    if not str(path):
        raise RequestError("the path is empty.")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RequestError(f"{path} begins with a home folder that does not exist.") from error


def home() -> Path:
    """Return the cache folder: $HAPPYHORSE_HOME, or ~/.cache/mlx_happyhorse."""
    return expanded(os.environ.get("HAPPYHORSE_HOME") or "~/.cache/mlx_happyhorse")


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Give a hidden path beside `path` to write to and rename; remove what is left there at the end."""
    beside = path.with_name(f".{secrets.token_hex(6)}.partial")
    try:
        yield beside
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        else:
            beside.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a hidden path beside `path` to write to; rename it to `path`, or remove it on failure."""
    with temporary_beside(path) as beside:
        yield beside
        beside.replace(path)


def read_object(path: Path) -> dict[str, Any]:
    """Return a JSON file's object; an empty one if the file is missing or damaged."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def store_object(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file; ignore a disk that cannot be written, as no run depends on it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as beside:
            beside.write_text(json.dumps(values))
    except OSError:
        return


def numbered(path: Path) -> Iterator[Path]:
    """Yield `path`, then name_1, name_2 … beside it."""
    yield path
    for n in count(1):
        yield path.with_name(f"{path.stem}_{n}{path.suffix}")


def rename_without_replacing(path: Path, target: Path) -> Path:
    """Rename `path` to the first of `target`, target_1 … that does not exist; return that."""
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
