"""Read PyTorch's .pth and .ckpt files without PyTorch, and without executing code from a pickle.

Such a file is a zip archive: data.pkl describes the tensors, data/0, data/1 … hold their bytes. The unpickler
resolves only the globals that describe tensors, and maps them to plain data.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from typing import Any, NamedTuple

from mlx_happyhorse.errors import ModelError
from mlx_happyhorse.storage.safetensors import ITEM_BYTES

from .tensors import File, Stored

ENDINGS = (".ckpt", ".pth", ".pt")
MAX_PICKLE_BYTES = 64_000_000
LOCAL_HEADER_BYTES = 30
STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}


class _Storage(NamedTuple):
    """A storage: its dtype, its record data/`key`, and its number of items."""

    dtype: str
    key: str
    items: int


class _View(NamedTuple):
    """A tensor as a view of a storage; `offset` and `stride` in items."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _tensor(storage: _Storage, offset: int, shape: tuple, stride: tuple, *_: Any) -> _View:
    return _View(storage, offset, tuple(shape), tuple(stride))


def _parameter(data: _View, *_: Any) -> _View:
    return data


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Resolve the KNOWN globals and storages, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not allowed") from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, items = pid
        if kind != "storage" or dtype not in ITEM_BYTES:
            raise pickle.UnpicklingError(f"it refers to an unknown storage ({kind})")
        return _Storage(dtype, str(key), int(items))


def read_pickle(file: File) -> dict[str, Stored]:
    """Return a checkpoint's tensors by name, not yet read. Raise ModelError for any other file."""
    try:
        with zipfile.ZipFile(_Seekable(file)) as archive:
            records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            state = _unpickle(archive.read(_checked(records["data.pkl"], MAX_PICKLE_BYTES)))
        return {name: _stored(file, name, view, records) for name, view in _views(state).items()}
    except ModelError:
        raise
    except zipfile.BadZipFile as error:
        raise ModelError(
            f"{file.name} is damaged or not a known checkpoint format. "
            "If PyTorch before 1.6 saved it, save it again, or as safetensors."
        ) from error
    except Exception as error:  # a hostile pickle can raise anything
        first_line = str(error).split("\n")[0] or type(error).__name__
        raise ModelError(f"{file.name} is not a checkpoint of plain tensors: {first_line}.") from error


def _checked(info: zipfile.ZipInfo, limit: int) -> zipfile.ZipInfo:
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit:
        raise ValueError(f"{info.filename} is compressed or too large")
    return info


def _unpickle(data: bytes) -> Any:
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("LONG_BINPUT", "PUT") and int(argument or 0) > len(data):
            raise ValueError("a memo index is out of range")  # unpickling would allocate that much memory
    return _Unpickler(io.BytesIO(data), encoding="utf-8").load()


def _views(state: Any) -> dict[str, _View]:
    for key in ("ema_state_dict", "state_dict"):
        if isinstance(state, dict):
            state = state.get(key, state)
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__}, not a dict of tensors")
    tensors = {str(name): value for name, value in state.items() if isinstance(value, _View)}
    if not tensors:
        raise ValueError("it holds no tensors")
    return tensors


def _stored(file: File, name: str, view: _View, records: dict[str, zipfile.ZipInfo]) -> Stored:
    storage, offset, shape, stride = view
    numbers = (*shape, *stride, offset)
    if len(shape) != len(stride) or not all(isinstance(n, int) and 0 <= n < 1 << 40 for n in numbers):
        raise ValueError(f"tensor {name} has an impossible shape")
    info = _checked(records[f"data/{storage.key}"], file.size)
    item = ITEM_BYTES[storage.dtype]
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    # A stride of 0 would expand a few bytes to a tensor of any size.
    if 0 in shape or max(last + 1, math.prod(shape)) * item > info.file_size:
        raise ValueError(f"tensor {name} is larger than its data")
    plain = _is_row_major(shape, stride)
    return Stored(_Record(file, info), name, storage.dtype, shape, offset * item, None if plain else stride)


def _is_row_major(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    expected = 1
    for n, s in reversed(list(zip(shape, stride, strict=True))):
        if n > 1 and s != expected:
            return False
        expected *= n
    return True


class _Record:
    """A file in the archive. The offset of its data is known only after its local header was read."""

    def __init__(self, file: File, info: zipfile.ZipInfo):
        self.file, self.name, self.size = file, file.name, info.file_size
        self._header = info.header_offset
        self._begin: int | None = None

    def read(self, start: int, stop: int) -> bytes:
        if self._begin is None:
            header = self.file.read(self._header, self._header + LOCAL_HEADER_BYTES)
            lengths = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
            self._begin = self._header + LOCAL_HEADER_BYTES + sum(lengths)
        if self._begin + stop > self.file.size:
            raise ModelError(f"{self.name} is truncated or damaged.")
        return self.file.read(self._begin + start, self._begin + stop)


class _Seekable(io.RawIOBase):
    """A seekable view of a file, for zipfile."""

    def __init__(self, file: File):
        self.file, self.position = file, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.file.size}[whence]
        self.position = max(origin + offset, 0)
        return self.position

    def read(self, size: int = -1) -> bytes:
        stop = self.file.size if size < 0 else min(self.position + size, self.file.size)
        data = self.file.read(self.position, stop) if stop > self.position else b""
        self.position += len(data)
        return data
