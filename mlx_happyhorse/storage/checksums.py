"""SHA256SUMS: the hashes of a folder's files, in the form that `sha256sum -c` reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from ..errors import ModelError
from ..files import atomic_write

SUMS = "SHA256SUMS"
CHUNK_BYTES = 8 << 20  # read at a time


def sha256(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file; `on_bytes` is called with the size of every chunk read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            digest.update(data)
            if on_bytes is not None:
                on_bytes(len(data))
    return digest.hexdigest()


def read_sums(folder: Path) -> dict[str, str]:
    """Return hashes by file name; empty if the folder has none. Raise ModelError for a damaged list."""
    file = folder / SUMS
    if not file.exists():
        return {}
    sums = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        found = re.fullmatch(r"([0-9a-f]{64})  ([\w.-]+)", line)
        if found is None:
            raise ModelError(f"{file} is damaged: {line[:80]!r} is not a hash and a file name.")
        sums[found[2]] = found[1]
    return sums


def write_sums(folder: Path, names: Iterable[str], known: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write the hashes of a folder's files; those in `known` are not computed."""
    lines = [f"{known.get(name) or sha256(folder / name)}  {name}\n" for name in sorted(names)]
    with atomic_write(folder / SUMS) as beside:
        beside.write_text("".join(lines))
