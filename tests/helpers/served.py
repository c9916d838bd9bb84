"""The Hub's library asking a server of ours, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.hub_server import HubServer
from huggingface_hub import constants


@contextmanager
def asking(server: HubServer, folder: Path) -> Iterator[None]:
    """The Hub's library asks this server, and all that is kept is kept below `folder`."""
    values = {
        "ENDPOINT": server.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(folder / "cache"),
        "HF_TOKEN_PATH": str(folder / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(constants, name, value)
        patch.setenv("HAPPYHORSE_HOME", str(folder / "models"))
        patch.delenv("HF_TOKEN", raising=False)
        patch.setattr(os, "fsync", lambda descriptor: None)  # slow, and only a power cut would tell
        yield


def same(folder: Path, other: Path, pattern: str = "*") -> bool:
    """Whether two folders hold the same files with the same bytes."""
    files = [{str(f.relative_to(d)): f for d in (top,) for f in d.rglob(pattern)} for top in (folder, other)]
    alike = (f.is_dir() or f.read_bytes() == files[1][name].read_bytes() for name, f in files[0].items())
    return files[0].keys() == files[1].keys() and all(alike)


def states(folder: Path) -> dict[str, tuple[int, int]]:
    found = {str(file.relative_to(folder)): file.stat() for file in folder.rglob("*")}
    return {name: (state.st_ino, state.st_mtime_ns) for name, state in found.items()}


def damage(file: Path) -> bytes:
    """Turns one bit over in the last byte; returns what was there before."""
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return data


def weights_sent(server: HubServer) -> set[str]:
    sent = (request.path for request in server.requests if request.sent)
    return {path.split("/")[-2] for path in sent if path.endswith(".safetensors")}
