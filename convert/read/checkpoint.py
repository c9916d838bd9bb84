"""A published checkpoint: tensors by name, across shards, and the JSON settings beside them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import PurePosixPath
from typing import Any

import mlx.core as mx

from mlx_happyhorse.errors import ModelError
from mlx_happyhorse.storage.safetensors import NOT_FINITE, read_header, weight_map

from .pickles import ENDINGS, read_pickle
from .sources import INDEX, Source
from .tensors import FORMATS, File, Stored, Tensor

FP8_SCALE = ".__fp8_scale"
MAX_JSON_BYTES = 16_000_000
MAX_SETTINGS_BYTES = 50_000  # larger JSON files are tokenizers, not settings
NUMBERED = re.compile(r"(.+)-00001-of-(\d{5})\.safetensors")


class Checkpoint:
    """The tensors of one file or sharded checkpoint. `take` removes a tensor from `names`, so that what is
    left in the end is unknown.

    `path` is the file, or the index of `shards` (tensor name → file name)."""

    def __init__(self, source: Source, path: str, shards: dict[str, str] | None = None):
        self.source, self.path = source, PurePosixPath(path)
        self.label = f"{source.name}/{path}" if source.name.rpartition("/")[2] != path else source.name
        self._index = shards
        self._opened: dict[str, dict[str, Stored]] = {}
        self._names = dict.fromkeys(shards if shards is not None else self._tensors_in(self.path.name))
        self._prefix = ""

    @property
    def folder(self) -> PurePosixPath:
        return self.path.parent

    @property
    def names(self) -> list[str]:
        return list(self._names)

    @property
    def opened(self) -> list[str]:
        """Return the paths of the files whose headers were read."""
        return [str(self.folder / name) for name in self._opened]

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def select(self, prefix: str) -> None:
        """Keep only the tensors whose names start with `prefix`, and strip it."""
        kept = [name.removeprefix(prefix) for name in self._names if name.startswith(prefix)]
        self._names, self._prefix = dict.fromkeys(kept), self._prefix + prefix

    def shape(self, name: str) -> tuple[int, ...]:
        return self._stored(name).shape

    def take(self, name: str) -> Tensor:
        """Return a tensor and remove it from `names`; fp8 weights are multiplied by their scale.

        Raise ModelError if it is missing or not of a float dtype."""
        stored = self._stored(name)
        if stored.dtype not in NOT_FINITE:
            raise ModelError(f"{self.label}: tensor {name} has unsupported dtype {stored.dtype}.")
        tensor = Tensor.of(stored)
        del self._names[name]
        if name + FP8_SCALE in self._names:
            if math.prod(self.shape(name + FP8_SCALE)) != 1:
                raise ModelError(f"{self.label}: {name + FP8_SCALE} is not a scalar.")
            scale = cache(self.take(name + FP8_SCALE).materialise)
            tensor = tensor.map(lambda rows: rows * scale().astype(mx.float32))
        return tensor

    def take_together(self, *names: str) -> list[Stored]:
        """Return tensors that share their rows, and remove them from `names`.

        Raise ModelError if one is missing or of an unsupported dtype, or if their row counts differ."""
        stored = [self._stored(name) for name in names]
        for one in stored:
            if one.dtype not in FORMATS:
                raise ModelError(f"{self.label}: tensor {one.name} has unsupported dtype {one.dtype}.")
        if len({one.shape[:1] for one in stored}) > 1:
            raise ModelError(f"{self.label}: {' and '.join(names)} have different numbers of rows.")
        for name in names:
            del self._names[name]
        return stored

    def count(self, pattern: str) -> int:
        """Return the number of consecutive n, from 0, with a tensor whose name starts with
        pattern.format(n)."""
        before, after = map(re.escape, pattern.split("{}"))
        seen = {
            int(found[1]) for name in self._names if (found := re.match(f"{before}(\\d{{1,6}}){after}", name))
        }
        return next(n for n in range(len(seen) + 1) if n not in seen)

    def settings(self, key: str) -> dict[str, Any]:
        """Return the JSON object beside the tensors that has the top-level `key`, or else {}."""
        return next((values for values in self._settings if key in values), {})

    @cached_property
    def _settings(self) -> list[dict[str, Any]]:
        paths = [path for path in self.source.files if PurePosixPath(path).parent == self.folder]
        names = [path for path in paths if path.endswith(".json") and not path.endswith(INDEX)]
        values = [read_json(f) for f in map(self.source.open, names) if f.size <= MAX_SETTINGS_BYTES]
        return [value for value in values if isinstance(value, dict)]

    def sibling(self, name: str) -> File:
        """Return a file in the checkpoint's folder. Raise ModelError if it is missing."""
        path = str(self.folder / name)
        if path not in self.source.files:
            raise ModelError(f"{self.label}: {name} is missing beside it.")
        return self.source.open(path)

    def _stored(self, name: str) -> Stored:
        if name not in self._names:
            raise ModelError(f"{self.label}: tensor {name} is missing.")
        full = self._prefix + name
        file = self.path.name if self._index is None else self._index[full]
        tensors = self._tensors_in(file)
        if full not in tensors:
            raise ModelError(f"{self.label} lists tensor {full} in {file}, but it is not there.")
        return tensors[full]

    def _tensors_in(self, name: str) -> dict[str, Stored]:
        if name not in self._opened:
            tensors = read_tensors(self.source.open(str(self.folder / name)))
            index = self._index if self._index is not None else dict.fromkeys(tensors, name)
            for tensor in tensors:
                if index.get(tensor) != name:
                    listed = f"in {index[tensor]}" if tensor in index else "nowhere"
                    raise ModelError(f"{self.label} lists tensor {tensor} {listed}, but it is in {name}.")
            self._opened[name] = tensors
        return self._opened[name]


def read_tensors(file: File) -> dict[str, Stored]:
    """Return the tensors of a .safetensors file or a pickle; only headers are read. Raise ModelError."""
    if file.name.endswith(ENDINGS):
        return read_pickle(file)
    header = read_header(file.read, file.size, file.name)
    return {name: Stored(file, name, e.dtype, e.shape, e.begin) for name, e in header.items()}


def read_json(file: File) -> Any:
    """Return a JSON file's value. Raise ModelError if it is too large or not valid JSON."""
    if file.size > MAX_JSON_BYTES:
        raise ModelError(f"{file.name} is too large for a JSON file: {file.size:,} bytes.")
    try:
        return json.loads(file.read(0, file.size))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file.name} is not valid JSON: {error}.") from error


def checkpoints(source: Source, under: str = "") -> Iterator[Checkpoint]:
    """Yield the checkpoints of a source below the folder `under`: shards as one, other files one by one."""
    files = [path for path in source.files if PurePosixPath(path).is_relative_to(under)]
    seen: set[str] = set()
    for path in sorted(files, key=lambda path: not path.endswith(INDEX)):
        numbered = NUMBERED.fullmatch(path)
        if path.endswith(INDEX):
            shards = _shards(source, path)
        elif numbered and path not in seen:
            shards = _shards_without_index(source, numbered[1], int(numbered[2]))
        else:
            continue
        seen |= {str(PurePosixPath(path).with_name(name)) for name in shards.values()}
        yield Checkpoint(source, path, shards)
    for path in files:
        if path.endswith((".safetensors", *ENDINGS)) and path not in seen:
            yield Checkpoint(source, path)


def _shards_without_index(source: Source, stem: str, count: int) -> dict[str, str]:
    shards: dict[str, str] = {}
    for i in range(count):
        path = f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors"
        if path not in source.files:
            raise ModelError(f"{source.name}: {path} is missing.")
        for tensor in read_tensors(source.open(path)):
            if tensor in shards:
                raise ModelError(f"{source.name}: tensor {tensor} is in both {shards[tensor]} and {path}.")
            shards[tensor] = PurePosixPath(path).name
    return shards


def _shards(source: Source, index: str) -> dict[str, str]:
    shards = weight_map(read_json(source.open(index)), f"{source.name}/{index}")
    for name in sorted(set(shards.values())):
        if str(PurePosixPath(index).with_name(name)) not in source.files:
            raise ModelError(f"{source.name}: {name} is missing, but {index} lists it.")
    return shards
