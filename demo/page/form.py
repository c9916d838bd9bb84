"""Turn the fields of the page into an order."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, NamedTuple

from mlx_happyhorse.inputs.prompts import Line, Prompt

from ..jobs.queue import Order
from .models import Model
from .texts import Texts

MAX_SEED = 2**31 - 1  # as HappyHorse's API takes
DRAFT = "draft"


class Form(NamedTuple):
    """The values of the fields, in the order of `Page.fields`."""

    prompt: str
    image: str | None
    audio: str | None
    shape: str
    seconds: float
    quality: str
    model: str
    seed: float | None
    lock: bool
    steps: float | None
    guidance: float | None
    negative_prompt: str
    extra: dict[str, Any]  # settings that no field shows: of an applied fix or a restored clip

    def order(self, default_prompt: str = "") -> Order:
        """Return the order. A first frame replaces the shape, a voice the length. Raises RequestError if
        there is no such model."""
        model = Model.of(self.model)
        settings: dict[str, Any] = {"seed": int(self.seed or 0)}
        if self.image is None:
            settings["ratio"] = self.shape
        if self.audio is None:
            settings["seconds"] = float(self.seconds)
        if self.quality != DRAFT and self.quality in model.upscalers:
            settings["upscale"] = self.quality
        if self.steps:
            settings["steps"] = int(self.steps)
        if model.guided:
            settings |= {"guidance": self.guidance, "negative_prompt": self.negative_prompt.strip() or None}
        settings |= self.extra
        if "width" in settings:
            settings.pop("ratio", None)
        settings = {name: value for name, value in settings.items() if value is not None}
        paths = [None if path is None else Path(path) for path in (self.image, self.audio)]
        return Order(self.prompt.strip() or default_prompt, self.model, settings, *paths)


def qualities(model: Model, texts: Texts) -> list[tuple[str, str]]:
    """Return the choices of quality: a draft, and the sizes that the model can upscale to."""
    upscaled = ((texts.upscaled.format(size=size), size) for size in model.upscalers)
    return [(texts.draft, DRAFT), *upscaled]


def new_seed() -> int:
    """Return a random seed that a field of the page can show."""
    return secrets.randbelow(MAX_SEED + 1)


def formatted_prompt(description: str, sound: str, *lines: str) -> str:
    """Return a prompt in the model's own format; `lines` are speaker, language and text in turn. Raises
    RequestError for an invalid line."""
    triples = zip(lines[::3], lines[1::3], lines[2::3], strict=True)
    dialogue = [Line(who, language, says) for who, language, says in triples if who.strip() and says.strip()]
    return str(Prompt(description, dialogue, sound.strip() or None))
