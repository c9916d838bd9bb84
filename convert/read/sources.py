"""Sources of checkpoints: a local folder, or a Hub repo that is read chunk by chunk (see `repo`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from mlx_happyhorse.errors import ModelError, RequestError

from .tensors import File

INDEX = ".safetensors.index.json"
MAX_DEPTH = 4  # levels of folders that are searched for checkpoints


class Source(Protocol):
    """Files by relative path. `location` is the absolute path or repo name, including parent folders."""

    name: str
    location: str

    @property
    def files(self) -> list[str]: ...

    def open(self, path: str) -> File: ...

    def identity(self, paths: list[str]) -> dict[str, Any]:
        """Return a value that changes when these files change; a resumed run compares it."""
        ...

    def origin(self) -> dict[str, str]:
        """Return the provenance that is stored in a component's config.json."""
        ...


class LocalFile:
    """A file on disk, kept open. Raise ModelError if it cannot be read."""

    def __init__(self, path: Path):
        self.path, self.name = path, str(path)
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
        self.size = os.fstat(self._descriptor).st_size

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes [start, stop). Raise ModelError if the file is shorter or cannot be read."""
        try:
            data = os.pread(self._descriptor, stop - start, start)
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read: {error.strerror}.") from error
        if len(data) < stop - start:
            raise ModelError(f"{self.path} is truncated: bytes {start:,} to {stop:,} are missing.")
        return data

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class Folder:
    """A local folder, or a single file together with the JSON files beside it.

    Raise RequestError if the path does not exist."""

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
            return sorted(str(file.relative_to(self.root)) for file in self._walk(self.root, MAX_DEPTH))
        settings = [file.name for file in self.root.glob("*.json") if not file.name.endswith(INDEX)]
        return [self.path.name, *sorted(settings)]

    def _walk(self, folder: Path, depth: int) -> Iterator[Path]:
        for item in folder.iterdir():
            if item.is_file():
                yield item
            elif item.is_dir() and depth > 1 and not item.name.startswith("."):
                yield from self._walk(item, depth - 1)

    def open(self, path: str) -> LocalFile:
        return LocalFile(self.root / path)

    def identity(self, paths: list[str]) -> dict[str, Any]:
        stats = {path: (self.root / path).stat() for path in paths}
        return {path: [stat.st_size, stat.st_mtime_ns] for path, stat in stats.items()}

    def origin(self) -> dict[str, str]:
        return {"folder": self.path.resolve().name}
