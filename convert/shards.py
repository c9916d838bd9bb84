"""Safetensors files written row by row: laid out beforehand, filled in place, gone on with after a stop."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_happyhorse.safetensors import ITEM_BYTES, OURS, Entry, write_header
from mlx_happyhorse.sums import sha256

from .fidelity import Errors
from .journal import Journal
from .precision import Format
from .tensors import Piece, Tensor

MAX_SHARD_BYTES = 5_000_000_000
READERS = 4

OnBytes = Callable[[int], None]


class Item(NamedTuple):
    """A tensor to be written, and how."""

    name: str
    tensor: Tensor
    format: Format

    def outputs(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, dtype and shape of all that is stored for it."""
        shape = self.tensor.shape
        row = self.format.encode(self.name, mx.zeros((1, *shape[1:]), self.tensor.dtype))
        return [(name, OURS[part.dtype], (shape[0], *part.shape[1:])) for name, part in row.items()]

    @property
    def stored_bytes(self) -> int:
        return sum(int(np.prod(shape)) * ITEM_BYTES[dtype] for _, dtype, shape in self.outputs())


def divide(items: list[Item]) -> dict[str, list[Item]]:
    """The files of a component, by their names."""
    shards: list[list[Item]] = [[]]
    size = 0
    for item in items:
        if shards[-1] and size + item.stored_bytes > MAX_SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(item)
        size += item.stored_bytes
    if len(shards) == 1:
        return {"model.safetensors": items}
    return {f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors": part for i, part in enumerate(shards)}


def write_shard(path: Path, items: list[Item], journal: Journal, on_bytes: OnBytes) -> None:
    """Writes one file beside and renames it when it is whole; what the journal says is done is not redone."""
    partial = path.with_name(path.name + ".partial")
    header, places = write_header([output for item in items for output in item.outputs()])
    fresh = not _is_laid_out(partial, header, places)
    with partial.open("wb" if fresh else "r+b") as file:
        if fresh:
            file.write(header)
            file.truncate(max((place.end for place in places.values()), default=len(header)))
        todo = [item for item in items if fresh or item.name not in journal.tensors]
        on_bytes(sum(item.tensor.source_bytes for item in items) - sum(i.tensor.source_bytes for i in todo))
        for item, errors in _fill(file.fileno(), places, todo, on_bytes):
            os.fsync(file.fileno())
            journal.add("tensors", item.name, errors)
    journal.add("shards", path.name, sha256(partial))
    partial.replace(path)


def _is_laid_out(partial: Path, header: bytes, places: dict[str, Entry]) -> bool:
    if not partial.exists():
        return False
    with partial.open("rb") as file:
        size = max((place.end for place in places.values()), default=len(header))
        return file.read(len(header)) == header and partial.stat().st_size == size


def _fill(
    descriptor: int, places: dict[str, Entry], items: list[Item], on_bytes: OnBytes
) -> Iterator[tuple[Item, dict[str, float] | None]]:
    """Writes the items' rows; gives every item when it is all there, with the errors it has now.

    Two pieces are computed at a time, on two streams, while further ones are read."""
    streams = [mx.new_stream(mx.default_device()) for _ in range(2)]
    under_way: deque[_Encoded] = deque()
    errors: Errors | None = None
    for number, (item, piece, fetched) in enumerate(_read_ahead(items)):
        first, last = piece.start == item.tensor.first, piece.stop == item.tensor.last
        if first and item.format.quantization is not None:
            errors = Errors(item.tensor.shape[0])
        with mx.stream(streams[number % 2]):
            under_way.append(_encode(item, piece, fetched, errors))
        while under_way and (last or len(under_way) == len(streams)):
            done = under_way.popleft()
            done.write(descriptor, places)
            on_bytes(done.source_bytes)
        if last:
            yield item, None if errors is None else errors.result()
            errors = None


class _Encoded:
    """What is stored for one piece: computed in the background, then written."""

    def __init__(self, source_bytes: int, errors: Errors | None):
        self.source_bytes, self.errors = source_bytes, errors
        self.runs: list[tuple[str, int, mx.array]] = []
        self.squares: list[list[mx.array]] = []

    def add(self, item: Item, row: int, rows: mx.array) -> None:
        stored = item.format.encode(item.name, rows)
        self.runs += [(name, row, mx.contiguous(part)) for name, part in stored.items()]
        if self.errors is not None:
            every = self.errors.every
            sample = {name: part[::every] for name, part in stored.items()}
            approximate = item.format.decode(item.name, sample)
            self.squares.append(self.errors.measure(rows[::every], approximate))
        mx.async_eval([part for _, _, part in self.runs], self.squares)

    def write(self, descriptor: int, places: dict[str, Entry]) -> None:
        for name, row, rows in self.runs:
            data = memoryview(np.asarray(rows.view(mx.uint8)))
            place = places[name]
            row_bytes = (place.end - place.begin) // place.shape[0]
            _write_all(descriptor, data.cast("B"), place.begin + row * row_bytes)
        for squares in self.squares:
            self.errors.add(squares)


def _encode(item: Item, piece: Piece, fetched: list[np.ndarray], errors: Errors | None) -> _Encoded:
    tensor = item.tensor
    encoded = _Encoded(sum(items.nbytes for items in fetched), errors)
    for row, rows in tensor.place(piece, fetched):
        encoded.add(item, row, rows)
    if piece.stop == tensor.last:
        for row, rows in tensor.padding():
            encoded.add(item, row, rows)
    return encoded


def _read_ahead(items: list[Item]) -> Iterator[tuple[Item, Piece, list[np.ndarray]]]:
    pieces = ((item, piece) for item in items for piece in item.tensor.pieces())
    pool = ThreadPoolExecutor(READERS)
    waiting: deque[tuple[Item, Piece, Future[list[np.ndarray]]]] = deque()
    try:
        for item, piece in pieces:
            waiting.append((item, piece, pool.submit(item.tensor.fetch, piece)))
            if len(waiting) > READERS:
                item, piece, future = waiting.popleft()
                yield item, piece, future.result()
        while waiting:
            item, piece, future = waiting.popleft()
            yield item, piece, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_all(descriptor: int, data: memoryview, position: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, position)
        data, position = data[written:], position + written
