"""What a clip was made of, kept inside it so that it can be made again."""

from __future__ import annotations

import json
import platform
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import av
import mlx.core as mx

from ..errors import RequestError
from ..files import expanded
from ..inputs.request import Request
from ..version import __version__

PROGRAM, FORMAT = "mlx_happyhorse", 1
LARGEST = 4_000_000  # bytes of a JSON file: a prompt has a few thousand
KINDS = {"prompt": str, "model": str, "seed": int | None, "weights": dict, "versions": dict}
SETTINGS = tuple(field.name for field in fields(Request))


def envelope() -> dict[str, Any]:
    """Who wrote this, and with which versions."""
    versions = {PROGRAM: __version__, "mlx": version("mlx"), "python": platform.python_version()}
    return {"made_with": PROGRAM, "format": FORMAT, "versions": versions}


def read(path: str | Path) -> dict[str, Any]:
    """The settings inside a clip of ours, or in the files beside it: its JSON and its latents.

    Raises RequestError."""
    path = expanded(path)
    text_of = {".json": _beside, ".safetensors": _among_latents}.get(path.suffix.lower(), _inside)
    try:
        text = text_of(path)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except (av.FFmpegError, ValueError, LookupError, RuntimeError) as error:
        raise RequestError(f"{path} is no clip of ours, or it is damaged.") from error
    return parse(text, str(path))


def parse(text: str, where: str) -> dict[str, Any]:
    """Settings as they are written. Raises RequestError for another program's, or a later format's."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or values.get("made_with") != PROGRAM:
        raise RequestError(
            f"{where} holds no settings of {PROGRAM}: it was made by something else, or in a script."
        )
    if values.get("format") != FORMAT:
        raise RequestError(
            f"{where} holds settings in format {values.get('format')!r}, this version reads {FORMAT}: "
            f"update {PROGRAM}."
        )
    for name, kinds in KINDS.items():
        if not isinstance(values.get(name), kinds):
            raise RequestError(f"{where} holds damaged settings: {name} is {str(values.get(name))[:60]!r}.")
    return values


def _beside(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise RequestError(f"{path} is too large for settings.")
    return path.read_text(encoding="utf-8")


def _among_latents(path: Path) -> str:
    with path.open("rb"):  # says why, if it cannot be
        _, about = cast(tuple[Any, dict[str, str]], mx.load(str(path), "safetensors", return_metadata=True))
    return about.get("settings", "")


def _inside(path: Path) -> str:
    with path.open("rb") as file, av.open(file, "r", options={"format_whitelist": "mov,mp4"}) as container:
        return container.metadata.get("comment", "")


def source(given: Any, digest: str) -> dict[str, str | None]:
    """Where a picture or a recording came from, if it was a file, and what was in it."""
    path = str(given).encode(errors="backslashreplace").decode() if isinstance(given, str | Path) else None
    return {"path": path, "sha256": digest}


def request_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The prompt and the settings that a request takes."""
    return {name: settings[name] for name in SETTINGS if settings.get(name) is not None}


def arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """What `HappyHorse.generate` takes to make the clip again, the prompt included, but for its picture and
    recording: files are never opened because a clip names them. Raises RequestError without a seed."""
    values = request_settings(settings)
    if "seed" not in values:
        raise RequestError("its noise came from a script, not from a seed: it cannot be repeated.")
    return values


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Why a repeated run will not give the same frames; empty if it should."""
    found = []
    for name in sorted(before["weights"].keys() & now["weights"].keys()):
        if before["weights"][name] != now["weights"][name]:
            found.append(f"the weights of {name} are others")
    if before.get("stopped") and not now.get("stopped"):
        found.append(f"it was stopped {before['stopped']}")
    if before.get("dtype") != now["dtype"]:
        found.append(f"dtype was {before.get('dtype')}")
    for name, value in before["versions"].items():
        if name != "python" and value != now["versions"].get(name):
            found.append(f"{name} was {value}")
    return found
