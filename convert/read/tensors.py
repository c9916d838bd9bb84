"""Tensors that are never whole in memory: where their rows lie in files, and what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from mlx_happyhorse.errors import ModelError
from mlx_happyhorse.storage.safetensors import ITEM_BYTES, are_finite

PIECE_BYTES = 16 << 20

Change = Callable[..., mx.array]

# How an item is held by NumPy, and what MLX then calls it.
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
    """Bytes that lie somewhere. Reading may be done by several threads."""

    name: str
    size: int

    def read(self, start: int, stop: int) -> bytes: ...


@dataclass(frozen=True)
class Stored:
    """A tensor in a file. `stride`, in items, is given where it does not lie there row by row."""

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
        """The bytes of some rows, as items. Raises ModelError where they are not numbers."""
        if self.stride is not None:
            return self._whole(self.stride)[start:stop]
        begin = self.begin + self.row_bytes * start
        items = self._items(begin, begin + self.row_bytes * (stop - start))
        return items.reshape(stop - start, *self.shape[1:])

    def _whole(self, stride: tuple[int, ...]) -> np.ndarray:
        span = 1 + sum((n - 1) * s for n, s in zip(self.shape, stride, strict=True))
        items = self._items(self.begin, self.begin + span * ITEM_BYTES[self.dtype])
        return np.lib.stride_tricks.as_strided(items, self.shape, [s * items.itemsize for s in stride])

    def _items(self, begin: int, end: int) -> np.ndarray:
        data = self.file.read(begin, end)
        if not are_finite(data, self.dtype):
            raise ModelError(f"{self.file.name}: tensor {self.name} holds NaN or infinity.")
        return np.frombuffer(data, FORMATS[self.dtype][0])

    def array(self, items: np.ndarray) -> mx.array:
        """Fetched items, as numbers."""
        if self.dtype == "F64":
            return mx.array(items.astype(np.float32))
        array = mx.array(np.ascontiguousarray(items))
        if self.dtype == "F8_E4M3":
            return mx.from_fp8(array, mx.float32)
        return array.view(FORMATS[self.dtype][1])


class Piece(NamedTuple):
    """Rows [start, stop) of a tensor's parts."""

    start: int
    stop: int


@dataclass(frozen=True)
class Tensor:
    """A tensor of ours: `change` of rows [first, last) of what is stored, row by row.

    `change` takes some rows of every part and gives as many. With `blocks` = n, row i of the parts is row
    i // n of block i % n, and every block is filled up with zeros to `height` rows."""

    parts: tuple[Stored, ...]
    first: int
    last: int
    change: Change
    blocks: int = 1
    height: int = 0

    @classmethod
    def of(cls, *parts: Stored, change: Change = lambda x: x) -> Tensor:
        count = parts[0].shape[0] if parts[0].shape else 1
        return cls(parts, 0, count, change, 1, count)

    def __len__(self) -> int:
        return self.last - self.first

    def map(self, change: Change) -> Tensor:
        """The same with a change more, which treats every row alike."""
        before = self.change
        return replace(self, change=lambda *rows: change(before(*rows)))

    def rows(self, first: int, last: int) -> Tensor:
        return replace(self, first=self.first + first, last=self.first + last, height=last - first)

    def split(self, count: int) -> list[Tensor]:
        """Equal parts of its rows."""
        each = len(self) // count
        return [self.rows(i * each, (i + 1) * each) for i in range(count)]

    def in_blocks(self, blocks: int, height: int) -> Tensor:
        return replace(self, blocks=blocks, height=height)

    @property
    def _example(self) -> mx.array:
        """One row, all zeros: of its shape and dtype."""
        rows = (part.array(np.zeros((1, *part.shape[1:]), FORMATS[part.dtype][0])) for part in self.parts)
        return self.change(*rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.blocks * self.height, *self._example.shape[1:])

    @property
    def dtype(self) -> mx.Dtype:
        return self._example.dtype

    @property
    def source_bytes(self) -> int:
        return sum(part.row_bytes for part in self.parts) * len(self)

    def pieces(self) -> Iterator[Piece]:
        """All of it, once, in runs of a few megabytes."""
        step = max(PIECE_BYTES // max(sum(part.row_bytes for part in self.parts), 1), 1)
        step = max(step // self.blocks, 1) * self.blocks
        if any(part.stride is not None for part in self.parts):
            step = len(self)
        for start in range(self.first, self.last, step):
            yield Piece(start, min(start + step, self.last))

    def fetch(self, piece: Piece) -> list[np.ndarray]:
        return [part.fetch(*piece) for part in self.parts]

    def place(self, piece: Piece, fetched: list[np.ndarray]) -> Iterator[tuple[int, mx.array]]:
        """What becomes of a piece: runs of rows, each with the number of its first."""
        rows = self.change(*(part.array(items) for part, items in zip(self.parts, fetched, strict=True)))
        row = (piece.start - self.first) // self.blocks
        for block in range(self.blocks):
            yield block * self.height + row, rows[block :: self.blocks] if self.blocks > 1 else rows

    def padding(self) -> Iterator[tuple[int, mx.array]]:
        """The rows of zeros at the end of every block."""
        filled = len(self) // self.blocks
        if filled < self.height:
            zeros = mx.zeros((self.height - filled, *self.shape[1:]), self.dtype)
            for block in range(self.blocks):
                yield block * self.height + filled, zeros

    def value(self) -> mx.array:
        """All of it at once: for small ones."""
        whole = Piece(self.first, self.last)
        placed = sorted([*self.place(whole, self.fetch(whole)), *self.padding()], key=lambda run: run[0])
        return mx.concatenate([rows for _, rows in placed])
