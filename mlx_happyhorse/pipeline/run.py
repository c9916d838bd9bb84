"""One clip in the making, stage by stage."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import mlx.core as mx
import numpy as np
from PIL import Image

from ..diffusion.checks import Contrast, check_latents, check_sound
from ..diffusion.sampling import Draw, Step, draw_from
from ..inputs.picture import fit_picture
from ..inputs.recording import Recording
from ..inputs.request import Request, Upscaling
from ..models.blocks import OnBlock
from ..outputs.clip import Clip
from ..outputs.latents import Latents
from ..planning.plan import Plan
from .preview import Colours
from .state import State

if TYPE_CHECKING:
    from .happyhorse import HappyHorse


@dataclass
class Texts:
    """Features (tokens, 3584) of the prompt, and by stage of what it is guided away from."""

    prompt: mx.array
    negative: dict[str, mx.array]


BEFORE_UPSCALING = "before upscaling"  # where a run was stopped that can still become what was asked for

T = TypeVar("T")
Stages = Generator[State, None, T]  # shows its states and returns what it made


class Run:
    """The stages of a run. Each shows how far it is and returns what it made; no network outlives it."""

    def __init__(
        self,
        horse: HappyHorse,
        request: Request,
        settings: dict[str, Any],
        draw: Draw | None,
        plan: Plan,
        on_block: OnBlock,
        preview: bool = False,
    ):
        """`draw` takes the place of the seed's noise, of which upscaling has its own, so that it gives
        the same at once or later."""
        self.streamed = {stage.name for stage in plan.stages if stage.streamed}
        self.keep_frames = plan.inputs.keep_frames
        self.horse, self.request, self.settings, self.on_block = horse, request, settings, on_block
        self.preview = horse.preview() if preview else None
        self.draw = draw or draw_from(mx.random.key(request.seed))
        self.draw_upscaling = draw or draw_from(mx.random.key((request.seed + 2**63) % 2**64))

    def generate(self, picture: Image.Image | None, recording: Recording | None) -> Stages[None]:
        text = yield from self._read_prompts("denoise", "upscale")
        latents = yield from self._denoise(text, picture, recording)
        if self.request.upscale is not None:
            latents = yield from self._upscale(text, latents)
        yield from decode(self.horse, latents, self.keep_frames, self.on_block)

    def upscale(self, latents: Latents) -> Stages[None]:
        text = yield from self._read_prompts("upscale")
        latents = yield from self._upscale(text, latents)
        yield from decode(self.horse, latents, self.keep_frames, self.on_block)

    def _state(self, stage: str, step: int, steps: int, latents: Latents | None = None) -> State:
        state = State(stage, step, steps, self.settings, latents)
        if self.preview is not None and latents is not None and step:
            state.preview = self.preview.render(np.array(latents.video))
        return state

    def _read_prompts(self, *stages: str) -> Stages[Texts]:
        """The features of the prompt, and of what the stages avoid."""
        avoided = self.request.avoided
        used = [self.request.prompt, *(avoided[stage] for stage in stages if stage in avoided)]
        prompts = list(dict.fromkeys(used))
        yield self._state("text", 0, 1)
        features = dict(zip(prompts, self.horse.encode_texts(prompts, self.on_block), strict=True))
        yield self._state("text", 1, 1)
        negative = {stage: features[avoided[stage]] for stage in stages if stage in avoided}
        return Texts(features[self.request.prompt], negative)

    def _first_frame(self, picture: Image.Image | None, width: int, height: int) -> Stages[mx.array | None]:
        if picture is None:
            return None
        yield self._state("image", 0, 1)
        latent = self.horse.encode_image(mx.array(fit_picture(picture, width, height)))
        yield self._state("image", 1, 1)
        return latent

    def _start(self, recording: Recording | None) -> Stages[tuple[mx.array, mx.array]]:
        """Noise for the video, and for the audio either that or the recording's latents."""
        video_shape, (sounds,) = self.request.latent_shapes
        video_channels, audio_channels = self.horse.latent_channels
        audio = self.draw((sounds, audio_channels))
        if recording is not None:
            yield self._state("voice", 0, 1)
            audio = self.horse.encode_audio(mx.array(recording.samples(sounds)), audio)
            yield self._state("voice", 1, 1)
        return self.draw((*video_shape, video_channels)), audio

    def _denoise(
        self, text: Texts, picture: Image.Image | None, recording: Recording | None
    ) -> Stages[Latents]:
        request = self.request
        video, audio = yield from self._start(recording)
        image = yield from self._first_frame(picture, request.width, request.height)
        latents = Latents(
            video,
            audio,
            self.settings | {"upscale": None, "upscale_size": None},
            picture,
            None if recording is None else recording.soundtrack(request.frames),
        )
        yield self._state("denoise", 0, request.steps)
        for step in self.horse.denoise(
            text.prompt,
            video,
            audio,
            steps=request.steps,
            negative_text=text.negative.get("denoise"),
            guidance=request.guidance,
            image=image,
            keep_audio=recording is not None,
            draw=self.draw,
            low_ram="denoise" in self.streamed,
            on_block=self.on_block,
        ):
            self._check("denoise", "transformer", step, recording is not None)
            after = _after("denoise", step, replace(latents, audio=step.clean_audio))
            yield self._state("denoise", step.index, step.steps, after)
        return after

    def _check(self, stage: str, component: str, step: Step, sound_given: bool) -> None:
        made = [step.video, step.clean_video, *([] if sound_given else [step.audio])]
        check_latents(f"{stage} step {step.index}", *made, dtype=self.horse.computed_in(component))

    def _upscale(self, text: Texts, latents: Latents) -> Stages[Latents]:
        request = self.request
        width, height = request.final_size
        image = yield from self._first_frame(latents.picture, width, height)
        not_yet = replace(latents, settings=latents.settings | {"stopped": BEFORE_UPSCALING})
        yield self._state("upscale", 0, request.upscale_steps, not_yet)
        for step in self.horse.upscale(
            text.prompt,
            latents.video,
            latents.audio,
            to=request.upscale or "",
            width=width,
            height=height,
            steps=request.upscale_steps,
            negative_text=text.negative.get("upscale"),
            guidance=request.upscale_guidance,
            image=image,
            align_corners=request.align_corners,
            draw=self.draw_upscaling,
            low_ram="upscale" in self.streamed,
            on_block=self.on_block,
        ):
            self._check("upscale", f"upscaler_{request.upscale}", step, True)
            after = _after("upscale", step, replace(latents, settings=self.settings))
            yield self._state("upscale", step.index, step.steps, after)
        return after


def decode(horse: HappyHorse, latents: Latents, keep_frames: bool, on_block: OnBlock) -> Stages[None]:
    """The last two stages, sound and picture. Without `keep_frames` no clip is put together of them."""
    settings, total = latents.settings, 4 * len(latents.video) - 3
    if settings.get("upscale") is None:  # whatever is to be done with its latents later
        settings = settings | dict.fromkeys(Upscaling.__annotations__)
    yield State("sound", 0, 1, settings, latents)
    sound = latents.soundtrack
    if sound is None:
        sound = np.array(horse.decode_audio(latents.audio, on_block))
        check_sound(sound)
    yield State("sound", 1, 1, settings, latents, sound=sound)
    yield State("picture", 0, total, settings, latents)
    kept: np.ndarray | None = None
    contrast, count = Contrast(), 0
    preview, colours = horse.kept_preview(), Colours()
    for window in horse.decode_video(latents.video):
        mx.eval(window)
        frames = np.array(window)
        contrast.see(frames)
        if preview is not None:
            colours.add(frames)
        count += len(frames)
        if keep_frames:
            kept = np.empty((total, *frames.shape[1:]), np.uint8) if kept is None else kept
            kept[count - len(frames) : count] = frames
        clip = None
        if count == total:
            contrast.check()
            if preview is not None:
                horse.improve_preview(preview, latents.video, colours)
            clip = None if kept is None else Clip(kept, sound, settings)
        yield State("picture", count, total, settings, latents, clip, frames)


def _after(stage: str, step: Step, latents: Latents) -> Latents:
    """The latents as the model takes them to be after a step, which say so if it was not the last."""
    if step.index < step.steps:
        stopped = {"stopped": f"after {stage} step {step.index} of {step.steps}"}
        latents = replace(latents, settings=latents.settings | stopped)
    return replace(latents, video=step.clean_video)
