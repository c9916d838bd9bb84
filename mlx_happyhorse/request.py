"""What was asked for, checked before anything is loaded."""

from __future__ import annotations

import math
import numbers
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, TypedDict

from .errors import RequestError
from .media import FPS
from .prompts import NEGATIVE_PROMPT

GRID = 32  # pixels: a latent is 16 of them wide, and a token two latents
LIMITS: dict[str, tuple[type[int] | type[float], tuple[float, float]]] = {
    "seconds": (float, (0.2, 30)),
    "width": (int, (GRID, 2048)),
    "height": (int, (GRID, 2048)),
    "steps": (int, (1, 100)),
    "guidance": (float, (1, 20)),
    "seed": (int, (0, 2**64 - 1)),
    "upscale_steps": (int, (1, 100)),
}
SHORT_SIDES = {"540p": 512, "1080p": 1088}


class Settings(TypedDict, total=False):
    """What may be asked beside the prompt; None or nothing takes the model's default.

    `seconds` 0.2 to 30; `width` and `height` in pixels, rounded down to multiples of 32; `steps` of
    denoising; `guidance` from 1, which is none; `seed`, random by default; `upscale` "540p" or "1080p",
    to `upscale_size` (width, height) or a size of the same shape.
    """

    negative_prompt: str | None
    seconds: float | None
    width: int | None
    height: int | None
    steps: int | None
    guidance: float | None
    seed: int | None
    upscale: str | None
    upscale_size: tuple[int, int] | None
    upscale_steps: int | None


@dataclass(frozen=True)
class Request:
    """A clip's settings, complete and checked: what makes it again."""

    prompt: str
    negative_prompt: str
    seconds: float
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    upscale: str | None = None
    upscale_size: tuple[int, int] | None = None
    upscale_steps: int = 5

    @classmethod
    def complete(cls, prompt: str, settings: Settings, defaults: Mapping[str, Any]) -> Self:
        """`settings`, and the model's `defaults` for what they leave open. Raises RequestError."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {"negative_prompt": NEGATIVE_PROMPT, "seed": secrets.randbelow(2**32)}
        values |= {name: value for name, value in defaults.items() if name in known}
        values |= {name: value for name, value in settings.items() if value is not None}
        if not isinstance(prompt, str) or not prompt.strip():
            raise RequestError("the prompt is empty: say what should be seen and heard.")
        for text in (prompt, values["negative_prompt"]):
            _check_text(text)
        for name, (kind, bounds) in LIMITS.items():
            values[name] = _number(name, values[name], kind, bounds)
        if values.get("upscale") not in (None, *SHORT_SIDES):
            raise RequestError(f"upscale {values['upscale']!r} is unknown: choose 540p or 1080p.")
        for name in ("width", "height"):
            values[name] = _round_down(name, values[name])
        if size := values.get("upscale_size"):
            width, height = size
            values["upscale_size"] = tuple(
                _round_down(name, _number(name, value, *LIMITS["width"]))
                for name, value in (("width to upscale to", width), ("height to upscale to", height))
            )
        return cls(prompt, **values)

    @property
    def sounds(self) -> int:
        """Latents of the audio, 25 a second."""
        return round(self.seconds * FPS) + 1

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Video (frames, h, w) and audio (n,), without channels."""
        return ((self.sounds - 1) // 4 + 1, self.height // 16, self.width // 16), (self.sounds,)

    @property
    def final_size(self) -> tuple[int, int]:
        """Width and height after upscaling."""
        if self.upscale is None:
            return self.width, self.height
        if self.upscale_size is not None:
            return self.upscale_size
        scale = SHORT_SIDES[self.upscale] / min(self.width, self.height)
        return _nearest(self.width * scale), _nearest(self.height * scale)


def _round_down(name: str, pixels: int) -> int:
    rounded = pixels // GRID * GRID
    if rounded != pixels:
        warnings.warn(f"{name} {pixels} becomes {rounded}: sizes are multiples of {GRID}.", stacklevel=5)
    return rounded


def _nearest(pixels: float) -> int:
    return math.floor(pixels / GRID + 0.5) * GRID


def _check_text(text: Any) -> None:
    if not isinstance(text, str):
        raise RequestError(f"a prompt is text, not {text!r}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError("the prompt holds bytes that are no text: write it in UTF-8.") from error


def _number(name: str, value: Any, kind: type[int] | type[float], bounds: tuple[float, float]) -> Any:
    low, high = bounds
    sound = isinstance(value, numbers.Integral if kind is int else numbers.Real)
    if not sound or isinstance(value, bool) or not low <= value <= high:
        raise RequestError(
            f"{name} must be a {'whole ' if kind is int else ''}number from {low} to {high}, not {value!r}."
        )
    return kind(value)
