"""Cached features of prompts: a prompt that was encoded before needs no text encoder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import cast

import mlx.core as mx

from ..diffusion.checks import check_latents
from ..errors import BrokenRun
from ..files import atomic_write, home

MAX_PROMPTS = 100  # a few MB each at most
VERSION = 1  # to be raised when the features change


def load(prompts: Iterable[str], encoder: str) -> dict[str, mx.array]:
    """Return the cached features (tokens, 3584) in fp32; `encoder` is the fingerprint of its weights."""
    found = {}
    for prompt in prompts:
        try:
            stored = cast(dict[str, mx.array], mx.load(str(_file(prompt, encoder)), format="safetensors"))
            features = stored["features"].astype(mx.float32)
            check_latents("text", features)
        except (OSError, RuntimeError, ValueError, KeyError, BrokenRun):
            continue
        found[prompt] = features
        with suppress(OSError):
            os.utime(_file(prompt, encoder))  # the least recently used are removed first
    return found


def known(prompts: Iterable[str], encoder: str) -> set[str]:
    """Return the prompts whose features are cached."""
    return {prompt for prompt in prompts if _file(prompt, encoder).is_file()}


def store(features: dict[str, mx.array], encoder: str) -> None:
    """Cache features, in the half precision that they have passed, and remove the least recently used.

    A disk that cannot be written to is ignored."""
    try:
        _folder().mkdir(parents=True, exist_ok=True)
        for prompt, array in features.items():
            with atomic_write(_file(prompt, encoder)) as beside, beside.open("wb") as file:
                mx.save_safetensors(file, {"features": array.astype(mx.float16)})
        files = sorted(_folder().glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
        for old in files[:-MAX_PROMPTS]:
            old.unlink(missing_ok=True)
    except (OSError, RuntimeError):
        return


def forget(prompt: str, encoder: str) -> None:
    """Remove a prompt: the next run encodes it again."""
    with suppress(OSError):
        _file(prompt, encoder).unlink(missing_ok=True)


def _folder() -> Path:
    return home() / "prompts"


def _file(prompt: str, encoder: str) -> Path:
    name = hashlib.sha256(f"{VERSION}\n{encoder}\n{prompt}".encode()).hexdigest()[:32]
    return _folder() / f"{name}.safetensors"
