"""Safetensors files written row by row: laid out beforehand, filled in place, gone on with after a stop."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from multiprocessing.pool import AsyncResult, ThreadPool
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_happyhorse.runtime.waiting import awaited
from mlx_happyhorse.storage.checksums import sha256
from mlx_happyhorse.storage.safetensors import ITEM_BYTES, OURS, Entry, write_header

from ..read.tensors import Piece, Tensor
from .fidelity import NO_SQUARES, SAMPLED_ROWS, Errors, Squares, measure
from .journal import Journal
from .quantization import Format

MAX_SHARD_BYTES = 5_000_000_000
# More than cores where those are few, since some wait for bytes; each may take 100 MB.
WORKERS = min(max(4, os.cpu_count() or 1), 16)

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
    if fresh:
        journal.begin(path.name, [item.name for item in items])
    with partial.open("wb" if fresh else "r+b") as file:
        if fresh:
            file.write(header)
            file.truncate(max((place.end for place in places.values()), default=len(header)))
        todo = [item for item in items if item.name not in journal.tensors]
        on_bytes(sum(item.tensor.source_bytes for item in items) - sum(i.tensor.source_bytes for i in todo))
        with closing(_fill(file.fileno(), places, todo, on_bytes)) as filled:
            for item, errors in filled:
                os.fsync(file.fileno())
                journal.add("tensors", item.name, errors)
    journal.add("shards", path.name, sha256(partial, lambda count: on_bytes(0)))
    partial.replace(path)


def _is_laid_out(partial: Path, header: bytes, places: dict[str, Entry]) -> bool:
    if not partial.exists():
        return False
    with partial.open("rb") as file:
        size = max((place.end for place in places.values()), default=len(header))
        return file.read(len(header)) == header and partial.stat().st_size == size


def _fill(
    descriptor: int, places: dict[str, Entry], items: list[Item], on_bytes: OnBytes
) -> Generator[tuple[Item, dict[str, float] | None], None, None]:
    """Writes the items' rows; gives every item when it is all there, with the errors it has now."""
    errors: Errors | None = None
    with closing(_in_order(descriptor, places, items, lambda: on_bytes(0))) as pieces:
        for item, piece, (count, squares) in pieces:
            if piece.start == item.tensor.first:
                errors = None if item.format.quantization is None else Errors()
            if errors is not None:
                errors.add(squares)
            on_bytes(count)
            if piece.stop == item.tensor.last:
                yield item, None if errors is None else errors.result()


def _in_order(
    descriptor: int, places: dict[str, Entry], items: list[Item], on_wait: Callable[[], None]
) -> Generator[tuple[Item, Piece, tuple[int, Squares]], None, None]:
    """All pieces with what `_store` gave; a few are fetched and a few are stored at any time."""
    fetching: deque[tuple[Item, Piece, AsyncResult[list[np.ndarray]]]] = deque()
    storing: deque[tuple[Item, Piece, Future[tuple[int, Squares]]]] = deque()
    pieces = ((item, piece) for item in items for piece in item.tensor.pieces())
    # Who waits for bytes ends with the process, whatever the network does; who writes is waited for.
    fetchers, writers = ThreadPool(WORKERS), ThreadPoolExecutor(WORKERS)

    def store_first() -> None:
        item, piece, result = fetching.popleft()
        fetched = awaited(result, on_wait)
        storing.append((item, piece, writers.submit(_store, descriptor, places, item, piece, fetched)))

    try:
        for item, piece in pieces:
            context = copy_context()  # its notes go where this thread's go
            result = fetchers.apply_async(context.run, (item.tensor.fetch, piece))
            fetching.append((item, piece, result))
            if len(fetching) > WORKERS:
                store_first()
            if len(storing) > WORKERS:
                yield _first(storing)
        while fetching:
            store_first()
        while storing:
            yield _first(storing)
    finally:
        fetchers.terminate()
        writers.shutdown(cancel_futures=True)


def _first(
    storing: deque[tuple[Item, Piece, Future[tuple[int, Squares]]]],
) -> tuple[Item, Piece, tuple[int, Squares]]:
    item, piece, result = storing.popleft()
    return item, piece, result.result()


def _store(
    descriptor: int, places: dict[str, Entry], item: Item, piece: Piece, fetched: list[np.ndarray]
) -> tuple[int, Squares]:
    """Writes what becomes of a piece; returns how many bytes it was read from, and its errors.

    On the CPU everywhere: the result is the same on every machine, and no GPU is kept from its work."""
    tensor, squares = item.tensor, NO_SQUARES
    with mx.stream(mx.cpu):
        runs = list(tensor.place(piece, fetched))
        if piece.stop == tensor.last:
            runs += tensor.padding()
        for row, rows in runs:
            stored = item.format.encode(item.name, rows)
            for name, part in stored.items():
                _write_rows(descriptor, places[name], row, part)
            if item.format.quantization is not None:
                every = max(tensor.shape[0] // SAMPLED_ROWS, 1)
                sample = {name: part[::every] for name, part in stored.items()}
                squares = squares + measure(rows[::every], item.format.decode(item.name, sample))
    return sum(part.nbytes for part in fetched), squares


def _write_rows(descriptor: int, place: Entry, row: int, rows: mx.array) -> None:
    data = np.asarray(mx.contiguous(rows).view(mx.uint8)).data.cast("B")
    position = place.begin + row * ((place.end - place.begin) // place.shape[0])
    _write_all(descriptor, data, position)


def _write_all(descriptor: int, data: memoryview, position: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, position)
        data, position = data[written:], position + written
