"""Lazy tensors: where their rows are stored, and the transform that each chunk of rows goes through."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from mlx_happyhorse.errors import ModelError
from mlx_happyhorse.storage.safetensors import ITEM_BYTES, are_finite

CHUNK_BYTES = 16 << 20  # read at once: large enough for few requests, small enough for many in memory

Transform = Callable[..., mx.array]

# By stored dtype: the NumPy dtype that holds an item, and the MLX dtype of the same bits.
FORMATS: dict[str, tuple[type[np.generic], mx.Dtype]] = {
    "F64": (np.float64, mx.float32),
    "F32": (np.float32, mx.float32),
    "F16": (np.float16, mx.float16),
    "BF16": (np.uint16, mx.bfloat16),
    "F8_E4M3": (np.uint8, mx.uint8),
    "U32": (np.uint32, mx.uint32),
    "U8": (np.uint8, mx.uint8),
}


class File(Protocol):
    """A file on disk or on the Hub. `read` returns bytes [start, stop) and is thread-safe."""

    name: str
    size: int

    def read(self, start: int, stop: int) -> bytes: ...


@dataclass(frozen=True)
class Stored:
    """A tensor in a file. `begin` is its byte offset; `stride`, in items, is None if it is row-major."""

    file: File
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    stride: tuple[int, ...] | None = None

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * ITEM_BYTES[self.dtype]

    def fetch(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop) as raw items. Raise ModelError if they hold NaN or infinity."""
        if self.stride is not None:
            return self._strided(self.stride)[start:stop]
        begin = self.begin + self.row_bytes * start
        items = self._items(begin, begin + self.row_bytes * (stop - start))
        return items.reshape(stop - start, *self.shape[1:])

    def _strided(self, stride: tuple[int, ...]) -> np.ndarray:
        span = 1 + sum((n - 1) * s for n, s in zip(self.shape, stride, strict=True))
        items = self._items(self.begin, self.begin + span * ITEM_BYTES[self.dtype])
        return np.lib.stride_tricks.as_strided(items, self.shape, [s * items.itemsize for s in stride])

    def _items(self, begin: int, end: int) -> np.ndarray:
        data = self.file.read(begin, end)
        if not are_finite(data, self.dtype):
            raise ModelError(f"{self.file.name}: tensor {self.name} contains NaN or infinity.")
        return np.frombuffer(data, FORMATS[self.dtype][0])

    def array(self, items: np.ndarray) -> mx.array:
        """Return fetched items as numbers; fp64 and fp8 become fp32."""
        if self.dtype == "F64":
            return mx.array(items.astype(np.float32))
        array = mx.array(np.ascontiguousarray(items))
        if self.dtype == "F8_E4M3":
            return mx.from_fp8(array, mx.float32)
        return array.view(FORMATS[self.dtype][1])


class Chunk(NamedTuple):
    """Rows [start, stop) of a tensor's source."""

    start: int
    stop: int


@dataclass(frozen=True)
class Tensor:
    """A lazy output tensor: `transform` of source rows [first, last), computed chunk by chunk.

    `transform` takes the same rows of every source and returns as many rows. With `blocks` = n the rows are
    deinterleaved: source row i becomes row i // n of block i % n, and every block is zero-padded to
    `block_rows` rows."""

    sources: tuple[Stored, ...]
    first: int
    last: int
    transform: Transform
    blocks: int = 1
    block_rows: int = 0

    @classmethod
    def of(cls, *sources: Stored, transform: Transform = lambda x: x) -> Tensor:
        rows = sources[0].shape[0] if sources[0].shape else 1
        return cls(sources, 0, rows, transform, 1, rows)

    def __len__(self) -> int:
        """Return the number of source rows."""
        return self.last - self.first

    def map(self, transform: Transform) -> Tensor:
        """Return this tensor with another transform on top, which must treat every row alike."""
        inner = self.transform
        return replace(self, transform=lambda *rows: transform(inner(*rows)))

    def rows(self, first: int, last: int) -> Tensor:
        """Return rows [first, last)."""
        return replace(self, first=self.first + first, last=self.first + last, block_rows=last - first)

    def split(self, count: int) -> list[Tensor]:
        """Return `count` equal slices of the rows."""
        each = len(self) // count
        return [self.rows(i * each, (i + 1) * each) for i in range(count)]

    def in_blocks(self, blocks: int, block_rows: int) -> Tensor:
        """Return the rows deinterleaved into `blocks`, each zero-padded to `block_rows`."""
        return replace(self, blocks=blocks, block_rows=block_rows)

    @property
    def _example(self) -> mx.array:
        """Return one row of zeros in the output's shape and dtype."""
        rows = (one.array(np.zeros((1, *one.shape[1:]), FORMATS[one.dtype][0])) for one in self.sources)
        return self.transform(*rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.blocks * self.block_rows, *self._example.shape[1:])

    @property
    def dtype(self) -> mx.Dtype:
        return self._example.dtype

    @property
    def source_bytes(self) -> int:
        return sum(one.row_bytes for one in self.sources) * len(self)

    def chunks(self) -> Iterator[Chunk]:
        """Yield consecutive chunks of about CHUNK_BYTES; a strided tensor is a single chunk."""
        step = max(CHUNK_BYTES // max(sum(one.row_bytes for one in self.sources), 1), 1)
        step = max(step // self.blocks, 1) * self.blocks
        if any(one.stride is not None for one in self.sources):
            step = len(self)
        for start in range(self.first, self.last, step):
            yield Chunk(start, min(start + step, self.last))

    def fetch(self, chunk: Chunk) -> list[np.ndarray]:
        """Return a chunk's raw items, one array per source."""
        return [one.fetch(*chunk) for one in self.sources]

    def compute(self, chunk: Chunk, fetched: list[np.ndarray]) -> Iterator[tuple[int, mx.array]]:
        """Yield (first output row, rows) of a fetched chunk, once per block."""
        rows = self.transform(*(one.array(items) for one, items in zip(self.sources, fetched, strict=True)))
        row = (chunk.start - self.first) // self.blocks
        for block in range(self.blocks):
            yield block * self.block_rows + row, rows[block :: self.blocks] if self.blocks > 1 else rows

    def padding(self) -> Iterator[tuple[int, mx.array]]:
        """Yield (first output row, zeros) that pad the end of every block."""
        filled = len(self) // self.blocks
        if filled < self.block_rows:
            zeros = mx.zeros((self.block_rows - filled, *self.shape[1:]), self.dtype)
            for block in range(self.blocks):
                yield block * self.block_rows + filled, zeros

    def materialise(self) -> mx.array:
        """Return the complete tensor; only for small ones."""
        every = Chunk(self.first, self.last)
        runs = sorted([*self.compute(every, self.fetch(every)), *self.padding()], key=lambda run: run[0])
        return mx.concatenate([rows for _, rows in runs])
