"""The left half of the page → an order."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, NamedTuple

from mlx_happyhorse.inputs.prompts import Line, Prompt

from ..jobs.queue import Order
from .models import Model

MAX_SEED = 2**31 - 1
DRAFT = "draft"


class Form(NamedTuple):
    """The values of the page's fields, in the order of its inputs."""

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
    extra: dict[str, Any]  # settings that an estimate or an earlier clip put in

    def order(self, prompt: str | None = None) -> Order:
        """A picture sets the shape, a recording the length; `prompt` stands for one that is not there yet.
        Raises RequestError for an unknown model."""
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
        given = {name: value for name, value in settings.items() if value is not None}
        paths = [None if path is None else Path(path) for path in (self.image, self.audio)]
        return Order(self.prompt.strip() or prompt or "", self.model, given, *paths)


def new_seed() -> int:
    return secrets.randbelow(MAX_SEED + 1)


def written(description: str, sound: str, *lines: str) -> str:
    """The model's own form of a prompt; `lines` are speaker, language and text in turn."""
    threes = zip(lines[::3], lines[1::3], lines[2::3], strict=True)
    dialogue = [Line(who, language, says) for who, language, says in threes if who.strip() and says.strip()]
    return str(Prompt(description, dialogue, sound.strip() or None))
