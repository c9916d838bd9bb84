"""A request's settings, checked before anything is loaded."""

from __future__ import annotations

import math
import numbers
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, TypedDict

from PIL import Image

from ..errors import RequestError
from ..geometry import GRID, Geometry
from ..notes import note
from .picture import LONGEST, base_size, other_side, shaped
from .prompts import NEGATIVE_PROMPT, Prompt
from .recording import MAX_SECONDS, Recording

LIMITS: dict[str, tuple[type[int] | type[float], tuple[float, float]]] = {
    "seconds": (float, (0.2, MAX_SECONDS)),
    "width": (int, (GRID, LONGEST)),
    "height": (int, (GRID, LONGEST)),
    "steps": (int, (1, 100)),
    "guidance": (float, (1, 20)),
    "seed": (int, (0, 2**64 - 1)),
    "upscale_steps": (int, (1, 100)),
    "upscale_guidance": (float, (1, 20)),
}
RATIOS = {"16:9": 16 / 9, "9:16": 9 / 16, "1:1": 1.0, "4:3": 4 / 3, "3:4": 3 / 4}  # width by height
UPSCALED = {"540p": (512, 960), "1080p": (1088, 1920)}  # at most, the shorter and the longer side


class Upscaling(TypedDict, total=False):
    """Settings of super-resolution; one that is None or missing takes its default.

    `upscale` is "540p" or "1080p", `upscale_size` (width, height), by default in the clip's shape.
    `upscale_steps` is the number of steps, `upscale_guidance` the guidance scale, where 1 is off, away from
    `upscale_negative_prompt`, by default that of the clip. `align_corners=False` aligns the picture's edges
    instead of its corner pixels, which is reported to reduce ghosting.
    """

    upscale: str | None
    upscale_size: tuple[int, int] | None
    upscale_steps: int | None
    upscale_guidance: float | None
    upscale_negative_prompt: str | None
    align_corners: bool | None


class Settings(Upscaling, total=False):
    """Settings beside the prompt; one that is None or missing takes the model's default.

    `seconds` is 0.2 to 60. `width` and `height` are in pixels, rounded down to multiples of 32; or `ratio`
    is one of `RATIOS`, with about the default number of pixels. `steps` is the number of denoising steps,
    `guidance` the guidance scale, where 1 is off, away from `negative_prompt`; `seed` is random by default.
    `Upscaling` lists the others.
    """

    negative_prompt: str | None
    seconds: float | None
    width: int | None
    height: int | None
    ratio: str | None
    steps: int | None
    guidance: float | None
    seed: int | None


DEFAULTS: dict[str, Any] = {
    "negative_prompt": NEGATIVE_PROMPT,
    "upscale": None,
    "upscale_size": None,
    "upscale_guidance": 1,
    "upscale_negative_prompt": None,
    "align_corners": True,
}


@dataclass(frozen=True)
class Request:
    """A clip's settings, complete and checked, from which it can be made again."""

    prompt: str
    negative_prompt: str
    seconds: float
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    upscale: str | None
    upscale_size: tuple[int, int] | None
    upscale_steps: int
    upscale_guidance: float
    upscale_negative_prompt: str | None
    align_corners: bool

    @classmethod
    def complete(cls, prompt: str | Prompt, settings: Settings, defaults: Mapping[str, Any]) -> Self:
        """Complete `settings` with the model's `defaults`. Raise RequestError if a clip is impossible."""
        known = {f.name for f in fields(cls)}
        values = DEFAULTS | {"seed": secrets.randbelow(2**32)}
        values |= {name: value for name, value in defaults.items() if name in known}
        values |= {name: value for name, value in settings.items() if value is not None}
        if (ratio := values.pop("ratio", None)) is not None:
            if settings.get("width") is not None or settings.get("height") is not None:
                raise RequestError("ratio and width or height exclude each other.")
            values["width"], values["height"] = ratio_size(ratio, (values["width"], values["height"]))
        request = cls(str(prompt) if isinstance(prompt, Prompt) else prompt, **_checked(values))
        request._check(settings)
        return request

    def _check(self, settings: Settings) -> None:
        """Check what depends on several settings."""
        for text in (self.prompt, self.negative_prompt, self.upscale_negative_prompt or ""):
            _check_text(text)
        if not self.prompt.strip():
            raise RequestError("a prompt is required.")
        if self.upscale is None:
            for name in Upscaling.__annotations__:
                if settings.get(name) is not None:
                    note(f"{name} has no effect without upscale.")
        elif (pixels := math.prod(self.final_size)) <= self.width * self.height:
            raise RequestError(
                f"{self.width}×{self.height} is no smaller than the {pixels} pixels of "
                f"{self.upscale}: choose a smaller size before upscaling."
            )

    @property
    def negative_prompts(self) -> dict[str, str]:
        """The negative prompt of "denoise" and of "upscale", where these are guided."""
        texts = {}
        if self.guidance > 1:
            texts["denoise"] = self.negative_prompt
        if self.upscale is not None and self.upscale_guidance > 1:
            own = self.upscale_negative_prompt
            texts["upscale"] = self.negative_prompt if own is None else own
        return texts

    @property
    def prompts(self) -> list[str]:
        """All prompts that the text encoder reads, without repetition."""
        return list(dict.fromkeys([self.prompt, *self.negative_prompts.values()]))

    @property
    def geometry(self) -> Geometry:
        """The sizes of the base stage."""
        return Geometry.of(self.width, self.height, self.seconds)

    @property
    def final_geometry(self) -> Geometry:
        """The sizes of the clip, after upscaling."""
        return self.geometry.resized(self.final_size)

    @property
    def final_size(self) -> tuple[int, int]:
        """Width and height of the clip, after upscaling."""
        if self.upscale is None:
            return self.width, self.height
        if self.upscale_size is not None:
            return self.upscale_size
        shorter, longer = UPSCALED[self.upscale]
        scale = min(shorter / min(self.width, self.height), longer / max(self.width, self.height))
        return _nearest(self.width * scale), _nearest(self.height * scale)


def follow_inputs(
    settings: Settings, defaults: Mapping[str, Any], picture: Image.Image | None, recording: Recording | None
) -> Settings:
    """Return the settings, with the size from a picture and the length from a recording where not set."""
    settings = settings.copy()
    if recording is not None and settings.get("seconds") is None:
        settings["seconds"] = max(recording.clip_seconds, LIMITS["seconds"][1][0])
    if picture is not None and settings.get("ratio") is None:
        width, height = settings.get("width"), settings.get("height")
        if width is None and height is None:
            settings["width"], settings["height"] = base_size(
                picture, (defaults["width"], defaults["height"])
            )
        elif width is None:
            settings["width"] = other_side(picture, height=_number("height", height, *LIMITS["height"]))
        elif height is None:
            settings["height"] = other_side(picture, width=_number("width", width, *LIMITS["width"]))
    return settings


def ratio_size(ratio: str, usual: tuple[int, int]) -> tuple[int, int]:
    """Return the width and height of one of `RATIOS`, with about as many pixels as `usual`. Raise
    RequestError for another ratio."""
    if ratio not in RATIOS:
        raise RequestError(f"there is no ratio {ratio!r}: choose one of {', '.join(RATIOS)}.")
    return shaped(RATIOS[ratio], usual)


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with sizes rounded. Raise RequestError for one outside its limits."""
    values = values.copy()
    for name, (kind, bounds) in LIMITS.items():
        values[name] = _number(name, values[name], kind, bounds)
    for name in ("width", "height"):
        values[name] = _round_down(name, values[name])
    if values["upscale"] not in (None, *UPSCALED):
        raise RequestError(f"upscale {values['upscale']!r} is unknown: choose 540p or 1080p.")
    if values["upscale_size"] is not None:
        values["upscale_size"] = _checked_size(values["upscale_size"])
    if not isinstance(values["align_corners"], bool):
        raise RequestError(f"align_corners must be True or False, not {values['align_corners']!r}.")
    return values


def _round_down(name: str, pixels: int) -> int:
    rounded = pixels // GRID * GRID
    if rounded != pixels:
        note(f"{name} {pixels} becomes {rounded}: sizes are multiples of {GRID}.")
    return rounded


def _checked_size(size: Any) -> tuple[int, int]:
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise RequestError(f"a size must be (width, height), not {size!r}.")
    names = "width to upscale to", "height to upscale to"
    width, height = (
        _round_down(n, _number(n, v, *LIMITS["width"])) for n, v in zip(names, size, strict=True)
    )
    return width, height


def _nearest(pixels: float) -> int:
    return math.floor(pixels / GRID + 0.5) * GRID


def _check_text(text: Any) -> None:
    if not isinstance(text, str):
        raise RequestError(f"a prompt must be text, not {text!r}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError("the prompt contains bytes that are not text: write it in UTF-8.") from error


def _number(name: str, value: Any, kind: type[int] | type[float], bounds: tuple[float, float]) -> Any:
    low, high = bounds
    sound = isinstance(value, numbers.Integral if kind is int else numbers.Real)
    if not sound or isinstance(value, bool) or not low <= value <= high:
        raise RequestError(
            f"{name} must be a {'whole ' if kind is int else ''}number from {low} to {high}, not {value!r}."
        )
    return kind(value)
