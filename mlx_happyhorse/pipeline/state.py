"""Where a run is: what `HappyHorse.stream` yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..outputs.clip import Clip
from ..outputs.latents import Latents
from ..planning.plan import Plan


class Taken(NamedTuple):
    """What a stage took: seconds, and bytes at its peak, as MLX counts them."""

    stage: str
    seconds: float
    bytes: int


@dataclass
class State:
    """Where a run stands: after `step` of the `steps` of a `stage`, which are frames in "picture".

    Stages are "text", "voice", "image", "denoise", "upscale", "sound" and "picture". `settings` are those
    that the clip will carry; `latents` what there is of it, as clean as the model can tell after this step,
    so that they may be looked at, saved or decoded at any time; `clip` is there in the last state of all.

    As soon as they are decoded, `sound` (samples, 2) is in the last state of its stage and `frames` (some,
    height, width, 3) in those of "picture". `taken` is what the stages took until now, `seconds_left` how
    long it will last by that and by the `plan`, and `memory` how many bytes MLX holds now. `preview`, where
    it was asked for, is what the latents will look like, about: (n, h, w, 3) uint8, a pixel for every cell.
    """

    stage: str
    step: int
    steps: int
    settings: dict[str, Any]
    latents: Latents | None = None
    clip: Clip | None = None
    frames: np.ndarray | None = None
    sound: np.ndarray | None = None
    taken: tuple[Taken, ...] = ()
    seconds_left: float = 0.0
    memory: int = 0
    plan: Plan | None = None
    preview: np.ndarray | None = None
