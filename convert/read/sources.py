"""Where checkpoints come from: a folder on this machine, or a repo on the Hub that is read piece by piece."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from mlx_happyhorse.errors import ModelError, RequestError

from .tensors import File

INDEX = ".safetensors.index.json"
DEPTH = 4  # of folders that are looked into


class Source(Protocol):
    """Files by their relative path. `location` is where they are, with the names of the folders around."""

    name: str
    location: str

    @property
    def files(self) -> list[str]: ...

    def open(self, path: str) -> File: ...

    def identity(self, paths: list[str]) -> dict[str, Any]:
        """What tells whether these files are still the same."""
        ...

    def origin(self) -> dict[str, str]:
        """What a model folder says of where its weights are from."""
        ...


class LocalFile:
    def __init__(self, path: Path):
        self.path, self.name = path, str(path)
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
        self.size = os.fstat(self._descriptor).st_size

    def read(self, start: int, stop: int) -> bytes:
        try:
            data = os.pread(self._descriptor, stop - start, start)
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read: {error.strerror}.") from error
        if len(data) < stop - start:
            raise ModelError(f"{self.path} is cut off: it has no bytes {start:,} to {stop:,}.")
        return data

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class Folder:
    """A folder, or a file that stands for the folder it lies in."""

    def __init__(self, path: Path):
        if not path.exists():
            raise RequestError(f"{path} does not exist.")
        self.path = path
        self.root = path if path.is_dir() else path.parent
        self.name = str(path)
        self.location = self.root.resolve().as_posix()

    @cached_property
    def files(self) -> list[str]:
        if self.path.is_dir():
            return sorted(str(file.relative_to(self.root)) for file in self._walk(self.root, DEPTH))
        beside = [file.name for file in self.root.glob("*.json") if not file.name.endswith(INDEX)]
        return [self.path.name, *sorted(beside)]

    def _walk(self, folder: Path, depth: int) -> Iterator[Path]:
        for item in folder.iterdir():
            if item.is_file():
                yield item
            elif item.is_dir() and depth > 1 and not item.name.startswith("."):
                yield from self._walk(item, depth - 1)

    def open(self, path: str) -> LocalFile:
        return LocalFile(self.root / path)

    def identity(self, paths: list[str]) -> dict[str, Any]:
        states = {path: (self.root / path).stat() for path in paths}
        return {path: [state.st_size, state.st_mtime_ns] for path, state in states.items()}

    def origin(self) -> dict[str, str]:
        return {"folder": self.path.resolve().name}
