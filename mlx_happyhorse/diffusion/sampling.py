"""The denoising loop: noise levels, the two solvers, guidance, and a fixed first frame or audio."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np

from ..errors import RequestError
from ..models.blocks import OnBlock, no_block, part_of
from ..models.transformer import Transformer
from ..runtime import watchdog
from .checks import check_velocity
from .sequence import PATCH, coordinates, pack, rotation, unpack

SHIFT = 5.0  # of the noise schedule, as in the reference
LATE_GUIDANCE = 2.0  # of the video at timestep 500 and below, as in the reference
Draw = Callable[[tuple[int, ...]], mx.array]  # shape → standard normal noise


def draw_from(key: mx.array) -> Draw:
    """Return a function that draws independent noise from one `mx.random.key`."""

    def draw(shape: tuple[int, ...]) -> mx.array:
        nonlocal key
        key, now = mx.random.split(key)
        return mx.random.normal(shape, key=now)

    return draw


def sigmas(steps: int, shift: float = SHIFT) -> np.ndarray:
    """Return the noise levels (steps + 1,), float32, from nearly 1 down to 0."""
    return np.append(_levels(steps, shift), 0).astype(np.float32)


def timesteps(steps: int, shift: float = SHIFT) -> list[int]:
    """Return the timestep of each step: its noise level in thousandths."""
    return [int(level * 1000) for level in _levels(steps, shift)]


def _levels(steps: int, shift: float) -> np.ndarray:
    s = np.linspace(float(np.float32(0.999)), 0, steps + 1)[:-1]  # rounded to fp32, as in the reference
    return shift * s / (1 + (shift - 1) * s)


class Solver(Protocol):
    """Takes a state to the next noise level."""

    clean: mx.array  # the last estimate of x0

    def step(self, velocity: mx.array, x: mx.array) -> mx.array: ...


class UniPC:
    """UniPC of order 2 in its B(h) = expm1(h) form, predicting x0 (arXiv 2302.04867).

    Every step first corrects the state that the previous step predicted."""

    def __init__(self, sigmas: np.ndarray):
        with np.errstate(divide="ignore"):
            s = sigmas.astype(np.float64)
            self.sigmas, self.log_snr = s, np.log1p(-s) - np.log(s)
        self.index = 0
        self.order = 1
        self.estimates: list[mx.array] = []  # of x0: the last two
        self.corrected: mx.array | None = None  # the state that the last step started from

    def step(self, velocity: mx.array, x: mx.array) -> mx.array:
        # Estimate x0, and with it correct the state that the last step predicted.
        x0 = x - float(self.sigmas[self.index]) * velocity
        if self.corrected is not None:
            x = self._advance(self.corrected, self.index - 1, self.order, x0)
        # Predict the next state from the last estimates; the order is lower at both ends.
        self.clean, self.estimates = x0, [*self.estimates[-1:], x0]
        steps_left = len(self.sigmas) - 1 - self.index
        self.order = min(2, steps_left, self.index + 1)
        self.corrected = x
        self.index += 1
        return self._advance(x, self.index - 1, self.order)

    def _advance(self, x: mx.array, i: int, order: int, x0_next: mx.array | None = None) -> mx.array:
        """Return the state at noise level i + 1 from x at level i: predicted, or with `x0_next`, the estimate
        at level i + 1, corrected."""
        alpha = 1 - self.sigmas[i + 1]
        h = self.log_snr[i + 1] - self.log_snr[i]
        b = math.expm1(-h)
        # The terms of first order.
        x0 = self.estimates[-1]
        y = float(self.sigmas[i + 1] / self.sigmas[i]) * x - float(alpha * b) * x0
        if order == 2:
            r = (self.log_snr[i - 1] - self.log_snr[i]) / h
            slope = (self.estimates[0] - x0) / float(r)
        # The predictor and the corrector of order 1 have closed forms; order 2 solves for two weights.
        if x0_next is None:
            return y - float(alpha * b * 0.5) * slope if order == 2 else y
        if order == 1:
            return y - float(alpha * b * 0.5) * (x0_next - x0)
        phi1 = -b / h - 1
        phi2 = -phi1 / h - 0.5
        past, here = np.linalg.solve([[1, 1], [r, 1]], [phi1 / b, 2 * phi2 / b])
        return y - float(alpha * b * past) * slope - float(alpha * b * here) * (x0_next - x0)


class Renoise:
    """The distilled model's solver: estimate x0, then add fresh noise of the next level."""

    def __init__(self, sigmas: np.ndarray, draw: Draw):
        self.sigmas, self.draw, self.index = sigmas, draw, 0

    def step(self, velocity: mx.array, x: mx.array) -> mx.array:
        now, after = (float(s) for s in self.sigmas[self.index : self.index + 2])
        self.index += 1
        self.clean = x - now * velocity
        return after * self.draw(x.shape) + (1 - after) * self.clean


@dataclass
class Guidance:
    """Scales of classifier-free guidance, away from the negative prompt; as in the reference."""

    video: float = 5.0
    audio: float = 5.0
    late_video: float = LATE_GUIDANCE  # once the timestep is 500 or less

    def video_scale(self, timestep: int, frames: int) -> mx.array:
        return mx.array(self.video if timestep > 500 else self.late_video)


@dataclass
class UpscaleGuidance(Guidance):
    """Guidance of super-resolution: weaker on the first latent frames, which would be over-exposed otherwise;
    as in the reference."""

    video: float = 3.5
    early_frames: int = 13
    early_video: float = 2.0

    def video_scale(self, timestep: int, frames: int) -> mx.array:
        early = np.arange(frames) < self.early_frames
        scale = np.where(early, min(self.early_video, self.video), self.video)
        return mx.array(scale, mx.float32)[:, None, None, None]


@dataclass
class Step:
    """The state after `index` of `steps` steps: the latents that the next step starts from, and the clean
    ones that the model estimates; after the last step both are the same."""

    index: int
    steps: int
    video: mx.array
    audio: mx.array
    clean_video: mx.array
    clean_audio: mx.array


class Velocity:
    """The transformer over latents: packs them into tokens with positions, and unpacks the result."""

    def __init__(self, model: Transformer):
        self.model = model
        self.rope: dict[tuple[int, ...], tuple[mx.array, mx.array]] = {}  # by size of video, audio and text

    def __call__(
        self, video: mx.array, audio: mx.array, text: mx.array, on_block: OnBlock = no_block
    ) -> tuple[mx.array, mx.array]:
        frames, height, width, _ = video.shape
        size = frames, height // PATCH, width // PATCH, len(audio), len(text)
        if size not in self.rope:
            config = self.model.config
            coords = coordinates(size[:3], len(audio), len(text), config.coordinates)
            self.rope[size] = rotation(coords, config.rope_bands)
        inputs = pack(video), audio, text, self.rope[size], frames, on_block
        v_video, v_audio = watchdog.run_with_retries(self.model, *inputs)
        check_velocity(v_video)
        return unpack(v_video, video.shape), v_audio


def denoise(
    model: Transformer,
    text: mx.array,
    video: mx.array,
    audio: mx.array,
    *,
    steps: int,
    shift: float = SHIFT,
    negative_text: mx.array | None = None,
    guidance: Guidance | None = None,
    image: mx.array | None = None,
    keep_audio: bool = False,
    draw: Draw | None = None,
    on_block: OnBlock = no_block,
) -> Iterator[Step]:
    """Turn noise into latents; yield the state after every step, evaluated.

    Latents are `video` (frames, h, w, 48) and `audio` (n, 64), features `text` (k, 3584), all fp32.
    With `negative_text` and `guidance` each step takes two passes. With `draw` the solver is the
    distilled model's and its noise comes from there, video first; otherwise it is UniPC. `image`
    (1, h, w, 48) overwrites the first latent frame; `keep_audio` leaves the audio unchanged. `on_block` is
    called after every layer of a step; an exception from it ends the loop."""
    if guidance is not None and negative_text is None:
        raise RequestError("guidance needs negative_text: pass it, or guidance=1.")
    levels = sigmas(steps, shift)
    velocity, passes = Velocity(model), 1 if guidance is None else 2
    video_solver: Solver = UniPC(levels) if draw is None else Renoise(levels, draw)
    audio_solver: Solver = UniPC(levels) if draw is None else Renoise(levels, draw)
    for index, timestep in enumerate(timesteps(steps, shift)):
        video = _with_first_frame(video, image)
        # Predict the velocity, and where guided, move it away from the negative prompt's.
        v_video, v_audio = velocity(video, audio, text, part_of(on_block, 0, passes))
        if guidance is not None and negative_text is not None:
            n_video, n_audio = velocity(video, audio, negative_text, part_of(on_block, 1, passes))
            v_video = n_video + guidance.video_scale(timestep, len(video)) * (v_video - n_video)
            v_audio = n_audio + guidance.audio * (v_audio - n_audio)
        # Advance to the next noise level.
        video = video_solver.step(v_video, video)
        if not keep_audio:
            audio = audio_solver.step(v_audio, audio)
        if index + 1 == steps:
            video = _with_first_frame(video, image)
        clean_video = _with_first_frame(video_solver.clean, image)
        clean_audio = audio if keep_audio else audio_solver.clean
        mx.eval(video, audio, clean_video, clean_audio)
        yield Step(index + 1, steps, video, audio, clean_video, clean_audio)


def _with_first_frame(video: mx.array, image: mx.array | None) -> mx.array:
    return video if image is None else mx.concatenate([image, video[1:]])
