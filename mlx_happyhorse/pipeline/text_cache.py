"""Features of prompts that were read before, so that the large encoder need not be loaded for them."""

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
from ..files import home, written_beside

KEPT = 100  # prompts, a few MB each at most
VERSION = 1  # goes up when features become others


def load(prompts: Iterable[str], encoder: str) -> dict[str, mx.array]:
    """Features (tokens, 3584) in fp32 of those that are known; `encoder` is its weights' fingerprint."""
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
            os.utime(_file(prompt, encoder))  # the least used are dropped first
    return found


def known(prompts: Iterable[str], encoder: str) -> set[str]:
    """Those whose features are kept."""
    return {prompt for prompt in prompts if _file(prompt, encoder).is_file()}


def store(features: dict[str, mx.array], encoder: str) -> None:
    """Keeps features, which have gone through half precision, and drops the least used beyond `KEPT`.

    A disk that cannot be written is no reason to fail."""
    try:
        _folder().mkdir(parents=True, exist_ok=True)
        for prompt, array in features.items():
            with written_beside(_file(prompt, encoder)) as beside, beside.open("wb") as file:
                mx.save_safetensors(file, {"features": array.astype(mx.float16)})
        files = sorted(_folder().glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
        for old in files[:-KEPT]:
            old.unlink(missing_ok=True)
    except (OSError, RuntimeError):
        return


def forget(prompt: str, encoder: str) -> None:
    """Makes the next run read it anew."""
    with suppress(OSError):
        _file(prompt, encoder).unlink(missing_ok=True)


def _folder() -> Path:
    return home() / "prompts"


def _file(prompt: str, encoder: str) -> Path:
    name = hashlib.sha256(f"{VERSION}\n{encoder}\n{prompt}".encode()).hexdigest()[:32]
    return _folder() / f"{name}.safetensors"
