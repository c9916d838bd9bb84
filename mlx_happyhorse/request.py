"""What was asked for, checked before anything is loaded."""

from __future__ import annotations

import math
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, TypedDict

from .errors import RequestError
from .media import FPS
from .prompts import NEGATIVE_PROMPT

GRID = 32  # pixels: a latent is 16 of them wide, and a token two latents
SECONDS = (0.2, 30)
SIZE = (GRID, 2048)
STEPS = (1, 100)
GUIDANCE = (1, 20)
SEED = (0, 2**64 - 1)
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
    """A clip's settings, complete: what makes it again. Raises RequestError for impossible ones."""

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

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise RequestError("the prompt is empty: say what should be seen and heard.")
        _check("seconds", self.seconds, SECONDS)
        _check("seed", self.seed, SEED, whole=True)
        _check("steps", self.steps, STEPS, whole=True)
        _check("guidance", self.guidance, GUIDANCE)
        _check("width", self.width, SIZE, whole=True)
        _check("height", self.height, SIZE, whole=True)
        _check("upscale_steps", self.upscale_steps, STEPS, whole=True)
        if self.upscale not in (None, *SHORT_SIDES):
            raise RequestError(f"upscale {self.upscale!r} is unknown: choose 540p or 1080p.")

    @classmethod
    def complete(cls, prompt: str, settings: Settings, defaults: Mapping[str, Any]) -> Self:
        """`settings`, and the model's `defaults` for what they leave open."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {"negative_prompt": NEGATIVE_PROMPT, "seed": secrets.randbelow(2**32)}
        values |= {name: value for name, value in defaults.items() if name in known}
        values |= {name: value for name, value in settings.items() if value is not None}
        for name in ("width", "height"):
            values[name] = _round_down(name, values[name])
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
            width, height = self.upscale_size
            return width // GRID * GRID, height // GRID * GRID
        scale = SHORT_SIDES[self.upscale] / min(self.width, self.height)
        return _nearest(self.width * scale), _nearest(self.height * scale)


def _round_down(name: str, pixels: Any) -> Any:
    if isinstance(pixels, int) and pixels > GRID and pixels % GRID:
        rounded = pixels // GRID * GRID
        warnings.warn(f"{name} {pixels} becomes {rounded}: sizes are multiples of {GRID}.", stacklevel=5)
        return rounded
    return pixels


def _nearest(pixels: float) -> int:
    return math.floor(pixels / GRID + 0.5) * GRID


def _check(name: str, value: Any, bounds: tuple[float, float], whole: bool = False) -> None:
    low, high = bounds
    number = isinstance(value, int) if whole else isinstance(value, int | float)
    if isinstance(value, bool) or not number or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise RequestError(f"{name} must be {kind} from {low} to {high}, not {value!r}.")
