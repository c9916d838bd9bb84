"""Checks of a model folder: files present and undamaged, tensors as the config says, and finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import HappyHorseError, ModelError
from .checksums import SUMS, read_sums, sha256
from .safetensors import are_finite, header_of, weight_map
from .weights import INDEX, load, read_json

CHUNK_BYTES = 8 << 20  # read at a time


class Problem(NamedTuple):
    """A problem of a component; `file` is given where one file is the cause."""

    component: str
    file: str | None
    what: str

    def __str__(self) -> str:
        return f"{'/'.join(filter(None, (self.component, self.file)))}: {self.what}"


def check(
    folder: Path, components: list[str], on_bytes: Callable[[int], None] = lambda count: None
) -> list[Problem]:
    """Return the problems of components: hashes, the index against the shards, names and shapes, NaN and
    infinity. `on_bytes` is called with the size of every chunk read."""
    return [problem for name in components for problem in _check(folder / name, on_bytes)]


def size(folder: Path, components: list[str]) -> int:
    """Return the number of bytes that `check` reads."""
    return sum(file.stat().st_size for name in components for file in (folder / name).glob("*.safetensors"))


def _check(folder: Path, on_bytes: Callable[[int], None]) -> Iterator[Problem]:
    name = folder.name
    if not folder.is_dir():
        yield Problem(name, None, "is missing")
        return
    try:
        sums = read_sums(folder)
    except ModelError as error:
        sums = {}
        yield Problem(name, SUMS, str(error))
    damaged = False
    for problem in _check_files(folder, sums, on_bytes):
        damaged = True
        yield problem
    if damaged:
        return
    try:
        _check_index(folder)
        load(folder)
    except HappyHorseError as error:
        yield Problem(name, None, str(error))
        return
    for file in sorted(folder.glob("*.safetensors")):
        if not sums:
            on_bytes(file.stat().st_size)
        if tensor := _not_finite(file):
            yield Problem(name, file.name, f"tensor {tensor} contains NaN or infinity")


def _check_files(folder: Path, sums: dict[str, str], on_bytes: Callable[[int], None]) -> Iterator[Problem]:
    for file, wanted in sums.items():
        if not (folder / file).is_file():
            yield Problem(folder.name, file, "is missing")
        elif sha256(folder / file, on_bytes if file.endswith(".safetensors") else None) != wanted:
            yield Problem(folder.name, file, "does not match its checksum")
    for path in sorted(folder.glob("*.safetensors")) if sums else []:
        if path.name not in sums:
            yield Problem(folder.name, path.name, f"is not listed in {SUMS}")


def _check_index(folder: Path) -> None:
    """Raise ModelError where the index and the shards disagree."""
    if not (folder / INDEX).exists():
        return
    listed = weight_map(read_json(folder / INDEX), INDEX)
    held = {tensor: file.name for file in folder.glob("*.safetensors") for tensor in header_of(file)}
    if wrong := sorted(name for name in listed.keys() | held.keys() if listed.get(name) != held.get(name)):
        raise ModelError(
            f"{INDEX} has tensor {wrong[0]} in {listed.get(wrong[0])}, but it is in {held.get(wrong[0])}"
        )


def _not_finite(file: Path) -> str | None:
    with file.open("rb") as data:
        for name, entry in header_of(file).items():
            data.seek(entry.begin)
            for start in range(entry.begin, entry.end, CHUNK_BYTES):
                if not are_finite(data.read(min(CHUNK_BYTES, entry.end - start)), entry.dtype):
                    return name
    return None
