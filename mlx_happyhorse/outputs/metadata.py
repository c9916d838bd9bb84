"""The settings inside a clip, with which it can be made again."""

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
    """Return the program, the format and the versions that write settings."""
    versions = {PROGRAM: __version__, "mlx": version("mlx"), "python": platform.python_version()}
    return {"made_with": PROGRAM, "format": FORMAT, "versions": versions}


def read(path: str | Path) -> dict[str, Any]:
    """Return the settings in a clip made by this package, or in its JSON or latents beside it.

    Raise RequestError for any other file."""
    path = expanded(path)
    text_of = {".json": _beside, ".safetensors": _among_latents}.get(path.suffix.lower(), _inside)
    try:
        text = text_of(path)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except (av.FFmpegError, ValueError, LookupError, RuntimeError) as error:
        raise RequestError(f"{path} is not a clip made by mlx_happyhorse, or it is damaged.") from error
    return parse(text, str(path))


def parse(text: str, where: str) -> dict[str, Any]:
    """Parse written settings. Raise RequestError for those of another program, or of a later format."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or values.get("made_with") != PROGRAM:
        raise RequestError(
            f"{where} has no settings of {PROGRAM}: it was made by another program, or in a script."
        )
    if values.get("format") != FORMAT:
        raise RequestError(
            f"{where} has settings in format {values.get('format')!r}, but this version reads {FORMAT}: "
            f"update {PROGRAM}."
        )
    for name, kinds in KINDS.items():
        if not isinstance(values.get(name), kinds):
            raise RequestError(f"{where} has damaged settings: {name} is {str(values.get(name))[:60]!r}.")
    return values


def _beside(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise RequestError(f"{path} is too large for settings.")
    return path.read_text(encoding="utf-8")


def _among_latents(path: Path) -> str:
    with path.open("rb"):  # for the reason, if it cannot be opened
        _, about = cast(tuple[Any, dict[str, str]], mx.load(str(path), "safetensors", return_metadata=True))
    return about.get("settings", "")


def _inside(path: Path) -> str:
    with path.open("rb") as file, av.open(file, "r", options={"format_whitelist": "mov,mp4"}) as container:
        return container.metadata.get("comment", "")


def source(given: Any, digest: str) -> dict[str, str | None]:
    """Return the path of a picture or recording, if it was a file, and its digest."""
    path = str(given).encode(errors="backslashreplace").decode() if isinstance(given, str | Path) else None
    return {"path": path, "sha256": digest}


def request_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a request takes, the prompt included."""
    return {name: settings[name] for name in SETTINGS if settings.get(name) is not None}


def arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `HappyHorse.generate` that make the clip again, without picture and recording:
    files are never opened because a clip names them. Raise RequestError without a seed."""
    values = request_settings(settings)
    if "seed" not in values:
        raise RequestError("its noise came from a script, not from a seed: the clip cannot be repeated.")
    return values


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the reasons why a repeated run will not give the same frames; empty if it should."""
    found = []
    for name in sorted(before["weights"].keys() & now["weights"].keys()):
        if before["weights"][name] != now["weights"][name]:
            found.append(f"the weights of {name} differ")
    if before.get("stopped") and not now.get("stopped"):
        found.append(f"it was stopped {before['stopped']}")
    if before.get("dtype") != now["dtype"]:
        found.append(f"dtype was {before.get('dtype')}")
    for name, value in before["versions"].items():
        if name != "python" and value != now["versions"].get(name):
            found.append(f"{name} was {value}")
    return found
