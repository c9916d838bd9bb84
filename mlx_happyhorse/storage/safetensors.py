"""The safetensors format: headers, checked before they are used.

A file is the header's length (8 bytes, little endian), the header (JSON: name → dtype, shape, offsets) and
the tensors' bytes, without gaps (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..errors import ModelError

MAX_HEADER_BYTES = 16_000_000  # the transformer's header has 50,000
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
DTYPE_NAMES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16", mx.uint32: "U32", mx.uint8: "U8"}
ALIGNMENT = 8  # bytes, of the first tensor, as the safetensors library writes
# The unsigned integer of the same width, and the smallest one that, shifted to drop the sign, means infinity
# or NaN.
NOT_FINITE: dict[str, tuple[type[np.unsignedinteger], int]] = {
    "F64": (np.uint64, 0x7FF << 53),
    "F32": (np.uint32, 0xFF << 24),
    "F16": (np.uint16, 0x1F << 11),
    "BF16": (np.uint16, 0xFF << 8),
    "F8_E4M3": (np.uint8, 0x7F << 1),
}

Read = Callable[[int, int], bytes]


class Entry(NamedTuple):
    """A tensor's dtype as the format names it, its shape, and the range of its bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(read: Read, size: int, name: str) -> dict[str, Entry]:
    """Return the tensors of a file of `size` bytes; `read` returns its bytes from a start to a stop.

    Raise ModelError, which names the file as `name`, if the header does not describe exactly these bytes."""
    length = int.from_bytes(read(0, 8), "little") if size >= 8 else size
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise ModelError(
            f"{name} is damaged or not a safetensors file: its header cannot be {length} bytes long."
        )
    try:
        values = json.loads(read(8, 8 + length), object_pairs_hook=_without_repetition)
        values.pop("__metadata__", None)
        entries = {tensor: _entry(value, 8 + length) for tensor, value in values.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{name} is damaged or not a safetensors file: {error}.") from error
    _check_places(entries, 8 + length, size, name)
    return entries


def header_of(file: Path) -> dict[str, Entry]:
    """Return the tensors of a file on this machine. Raise ModelError as `read_header` does."""
    try:
        with file.open("rb") as data:

            def read(start: int, stop: int) -> bytes:
                return os.pread(data.fileno(), stop - start, start)

            return read_header(read, file.stat().st_size, file.name)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}.") from error


def are_finite(data: bytes, dtype: str) -> bool:
    """Return whether no number in a tensor's bytes is infinite or NaN."""
    if dtype not in NOT_FINITE:
        return True
    kind, first = NOT_FINITE[dtype]
    numbers = np.frombuffer(data, kind)
    return not numbers.size or int((numbers << kind(1)).max()) < first


def write_header(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[bytes, dict[str, Entry]]:
    """Return the header of a file with tensors (name, dtype, shape) in this order, and their entries."""
    places: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    position = 0
    for name, dtype, shape in tensors:
        stop = position + math.prod(shape) * ITEM_BYTES[dtype]
        places[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, stop]}
        position = stop
    text = json.dumps(places, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    del places["__metadata__"]
    entries = {name: _entry(place, 8 + len(text)) for name, place in places.items()}
    return len(text).to_bytes(8, "little") + text, entries


def weight_map(values: Any, name: str) -> dict[str, str]:
    """Return the file of each tensor from an index. Raise ModelError unless all files are beside it."""
    shards = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise ModelError(f"{name} lists no tensors.")
    for file in shards.values():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise ModelError(f"{name} names {file!r}, which is not a file beside it.")
    return shards


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice} is twice in its header")
    return values


def _entry(value: dict[str, Any], data: int) -> Entry:
    begin, end = value["data_offsets"]
    shape = tuple(value["shape"])
    numbers = (*shape, begin, end)
    if not all(isinstance(n, int) and 0 <= n < 1 << 63 for n in numbers):
        raise ValueError(f"{numbers} are not sizes")
    return Entry(str(value["dtype"]), shape, data + begin, data + end)


def _check_places(entries: dict[str, Entry], position: int, size: int, name: str) -> None:
    for tensor, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.dtype not in ITEM_BYTES:
            raise ModelError(f"{name}: tensor {tensor} has the unknown dtype {entry.dtype}.")
        if entry.end - entry.begin != math.prod(entry.shape) * ITEM_BYTES[entry.dtype]:
            raise ModelError(f"{name}: tensor {tensor} has a number of bytes that does not match its shape.")
        if entry.begin != position:
            what = "overlaps another" if entry.begin < position else "lies behind a gap"
            raise ModelError(f"{name} is damaged: tensor {tensor} {what}.")
        position = entry.end
    if position != size:
        what = "cut off" if position > size else "longer than its header says"
        raise ModelError(f"{name} is {what}: it has {size:,} bytes of {position:,}.")
