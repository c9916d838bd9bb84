"""Where a run is: what `HappyHorse.stream` yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..outputs.clip import Clip
from ..outputs.latents import Latents
from ..planning.plan import Plan
from ..planning.stage import StageName


class StageStats(NamedTuple):
    """The seconds that a stage took, and its peak in bytes, as MLX counts them."""

    stage: StageName
    seconds: float
    bytes: int


@dataclass
class State:
    """A run after `step` of the `steps` of a `stage`; in "picture", steps are frames.

    `stage` is a `StageName`, a string: "text", "voice", "image", "denoise", "upscale", "sound" or "picture".
    `settings` are those that the clip will carry. `latents` are the current ones, as clean as the model
    predicts them after this step: they can be decoded or saved at any time. `clip` is set in the last state.

    `sound` (samples, 2) is set in the last state of "sound", and `frames` (n, height, width, 3), the next
    ones, in those of "picture". `taken` has the stages so far, `seconds_left` an estimate from these and the
    `plan`, `memory` the bytes that MLX holds now. `preview`, where it was asked for, shows what the latents
    will look like, one pixel per latent: (n, h, w, 3) uint8.
    """

    stage: StageName
    step: int
    steps: int
    settings: dict[str, Any]
    latents: Latents | None = None
    clip: Clip | None = None
    frames: np.ndarray | None = None
    sound: np.ndarray | None = None
    taken: tuple[StageStats, ...] = ()
    seconds_left: float = 0.0
    memory: int = 0
    plan: Plan | None = None
    preview: np.ndarray | None = None
