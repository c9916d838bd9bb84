"""Write safetensors files chunk by chunk: allocated first, then filled in place, and resumable."""

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

from mlx_happyhorse.runtime.waiting import wait_for
from mlx_happyhorse.storage.checksums import sha256
from mlx_happyhorse.storage.safetensors import DTYPE_NAMES, ITEM_BYTES, Entry, write_header

from ..read.tensors import Chunk, Tensor
from .fidelity import NO_SQUARES, SAMPLED_ROWS, Errors, Squares, measure
from .journal import Journal
from .quantization import Format

MAX_SHARD_BYTES = 5_000_000_000
# At least 4, as fetchers mostly wait for the network; at most 16, as each may take 100 MB.
WORKERS = min(max(4, os.cpu_count() or 1), 16)

OnBytes = Callable[[int], None]


class Item(NamedTuple):
    """A tensor to write, and its stored format."""

    name: str
    tensor: Tensor
    format: Format

    def outputs(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Return (name, dtype, shape) of each stored array."""
        shape = self.tensor.shape
        row = self.format.encode(self.name, mx.zeros((1, *shape[1:]), self.tensor.dtype))
        return [(name, DTYPE_NAMES[array.dtype], (shape[0], *array.shape[1:])) for name, array in row.items()]

    @property
    def stored_bytes(self) -> int:
        return sum(int(np.prod(shape)) * ITEM_BYTES[dtype] for _, dtype, shape in self.outputs())


def divide(items: list[Item]) -> dict[str, list[Item]]:
    """Divide a component's tensors into shards of at most MAX_SHARD_BYTES, by file name."""
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
    return {f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards)}


def write_shard(path: Path, items: list[Item], journal: Journal, on_bytes: OnBytes) -> None:
    """Write one shard under a temporary name and rename it when complete; resume from the journal.

    `on_bytes` receives the source bytes done since its last call, or 0 while waiting."""
    partial = path.with_name(path.name + ".partial")
    header, places = write_header([output for item in items for output in item.outputs()])
    fresh = not _is_allocated(partial, header, places)
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


def _is_allocated(partial: Path, header: bytes, places: dict[str, Entry]) -> bool:
    """Return whether a file has exactly this header and size, left by an earlier run."""
    if not partial.exists():
        return False
    with partial.open("rb") as file:
        size = max((place.end for place in places.values()), default=len(header))
        return file.read(len(header)) == header and partial.stat().st_size == size


def _fill(
    descriptor: int, places: dict[str, Entry], items: list[Item], on_bytes: OnBytes
) -> Generator[tuple[Item, dict[str, float] | None], None, None]:
    """Write the items' rows; yield each finished item with its quantization errors, None if not quantized."""
    errors: Errors | None = None
    with closing(_in_order(descriptor, places, items, lambda: on_bytes(0))) as chunks:
        for item, chunk, (count, squares) in chunks:
            if chunk.start == item.tensor.first:
                errors = None if item.format.quantization is None else Errors()
            if errors is not None:
                errors.add(squares)
            on_bytes(count)
            if chunk.stop == item.tensor.last:
                yield item, None if errors is None else errors.result()


def _in_order(
    descriptor: int, places: dict[str, Entry], items: list[Item], on_wait: Callable[[], None]
) -> Generator[tuple[Item, Chunk, tuple[int, Squares]], None, None]:
    """Yield all chunks in order with the result of `_store`; some are being fetched and stored meanwhile."""
    fetching: deque[tuple[Item, Chunk, AsyncResult[list[np.ndarray]]]] = deque()
    storing: deque[tuple[Item, Chunk, Future[tuple[int, Squares]]]] = deque()
    chunks = ((item, chunk) for item in items for chunk in item.tensor.chunks())
    # A hanging fetch must not delay a stop, so fetchers are daemon threads. Writers must end before the file
    # is closed, so they are joined.
    fetchers, writers = ThreadPool(WORKERS), ThreadPoolExecutor(WORKERS)

    def store_first() -> None:
        item, chunk, result = fetching.popleft()
        fetched = wait_for(result, on_wait)
        storing.append((item, chunk, writers.submit(_store, descriptor, places, item, chunk, fetched)))

    try:
        for item, chunk in chunks:
            context = copy_context()  # for notes, which go to the listener of this context
            result = fetchers.apply_async(context.run, (item.tensor.fetch, chunk))
            fetching.append((item, chunk, result))
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
    storing: deque[tuple[Item, Chunk, Future[tuple[int, Squares]]]],
) -> tuple[Item, Chunk, tuple[int, Squares]]:
    item, chunk, result = storing.popleft()
    return item, chunk, result.result()


def _store(
    descriptor: int, places: dict[str, Entry], item: Item, chunk: Chunk, fetched: list[np.ndarray]
) -> tuple[int, Squares]:
    """Compute and write a chunk; return the source bytes read for it, and its quantization errors.

    Always on the CPU: the result is the same on every machine, and the GPU stays free for other work."""
    tensor, squares = item.tensor, NO_SQUARES
    with mx.stream(mx.cpu):
        runs = list(tensor.compute(chunk, fetched))
        if chunk.stop == tensor.last:
            runs += tensor.padding()
        for row, rows in runs:
            stored = item.format.encode(item.name, rows)
            for name, array in stored.items():
                _write_rows(descriptor, places[name], row, array)
            if item.format.quantization is not None:
                every = max(tensor.shape[0] // SAMPLED_ROWS, 1)
                sample = {name: array[::every] for name, array in stored.items()}
                squares = squares + measure(rows[::every], item.format.decode(item.name, sample))
    return sum(items.nbytes for items in fetched), squares


def _write_rows(descriptor: int, place: Entry, row: int, rows: mx.array) -> None:
    """Write `rows` of a stored array to their position in the file, from row number `row` on."""
    data = np.asarray(mx.contiguous(rows).view(mx.uint8)).data.cast("B")
    position = place.begin + row * ((place.end - place.begin) // place.shape[0])
    _write_all(descriptor, data, position)


def _write_all(descriptor: int, data: memoryview, position: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, position)
        data, position = data[written:], position + written
