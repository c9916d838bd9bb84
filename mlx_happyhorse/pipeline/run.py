"""One run: its stages, one after the other."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from ..diffusion.checks import Contrast, check_audio, check_latents
from ..diffusion.sampling import Draw, Step, draw_from
from ..geometry import pixel_frames
from ..inputs.picture import fit_picture
from ..inputs.request import Upscaling
from ..models.blocks import OnBlock
from ..outputs.clip import Clip
from ..outputs.latents import Latents
from ..planning.plan import Plan
from ..planning.stage import StageName
from .order import Order
from .preview import Colours
from .stages import Stages
from .state import State

BEFORE_UPSCALING = "before upscaling"  # a run stopped there can still become the clip that was asked for
UPSCALING_SEED = 2**63  # added to the seed: upscaling gives the same at once and from kept latents

T = TypeVar("T")
StateGenerator = Generator[State, None, T]  # yields its states and returns its result


@dataclass
class Texts:
    """Features (tokens, 3584) of the prompt, and by stage of its negative prompt."""

    prompt: mx.array
    negative: dict[str, mx.array]


class Run:
    """The stages of a run. Each yields its states and returns its result; its network is freed at its end."""

    def __init__(
        self,
        stages: Stages,
        order: Order,
        settings: dict[str, Any],
        draw: Draw | None,
        plan: Plan,
        on_block: OnBlock,
        preview: bool = False,
    ):
        """`settings` are the clip's; `draw` replaces the random numbers of the seed."""
        self.stages, self.order, self.settings, self.on_block = stages, order, settings, on_block
        self.request = order.request
        self.streamed = {stage.name for stage in plan.stages if stage.streamed}
        self.preview = stages.preview() if preview else None
        seed = self.request.seed
        self.draw = draw or draw_from(mx.random.key(seed))
        self.draw_upscaling = draw or draw_from(mx.random.key((seed + UPSCALING_SEED) % 2**64))

    def states(self) -> StateGenerator[None]:
        """Yield the states of all stages, from the order's first one on."""
        if self.order.begin == StageName.SOUND:
            assert self.order.latents is not None
            yield from self._decode(self.order.latents)
            return
        kept = self.order.latents
        guided = [StageName.UPSCALE] if kept is not None else [StageName.DENOISE, StageName.UPSCALE]
        text = yield from self._encode_prompts(guided)
        latents = kept if kept is not None else (yield from self._denoise(text))
        if self.request.upscale is not None:
            latents = yield from self._upscale(text, latents)
        yield from self._decode(latents)

    def _state(self, stage: StageName, step: int, steps: int, latents: Latents | None = None) -> State:
        state = State(stage, step, steps, self.settings, latents)
        if self.preview is not None and latents is not None and step:
            state.preview = self.preview.render(np.array(latents.video))
        return state

    def _encode_prompts(self, guided: list[StageName]) -> StateGenerator[Texts]:
        negative = {s: text for s, text in self.request.negative_prompts.items() if s in guided}
        prompts = list(dict.fromkeys([self.request.prompt, *negative.values()]))
        yield self._state(StageName.TEXT, 0, 1)
        features = dict(zip(prompts, self.stages.encode_texts(prompts, self.on_block), strict=True))
        yield self._state(StageName.TEXT, 1, 1)
        return Texts(features[self.request.prompt], {s: features[text] for s, text in negative.items()})

    def _encode_picture(
        self, latents: Latents | None, size: tuple[int, int]
    ) -> StateGenerator[mx.array | None]:
        picture = self.order.picture if latents is None else latents.picture
        if picture is None:
            return None
        yield self._state(StageName.IMAGE, 0, 1)
        latent = self.stages.encode_image(mx.array(fit_picture(picture, *size)))
        yield self._state(StageName.IMAGE, 1, 1)
        return latent

    def _noise(self) -> StateGenerator[tuple[mx.array, mx.array]]:
        """Return the noise to start from: video, and audio, or the recording's latents in its place."""
        geometry, recording = self.request.geometry, self.order.recording
        video_channels, audio_channels = self.stages.latent_channels
        audio = self.draw((geometry.audio_latents, audio_channels))
        if recording is not None:
            yield self._state(StageName.VOICE, 0, 1)
            samples = mx.array(recording.samples(geometry.audio_latents))
            audio = self.stages.encode_audio(samples, audio)
            yield self._state(StageName.VOICE, 1, 1)
        return self.draw((*geometry.video_shape, video_channels)), audio

    def _denoise(self, text: Texts) -> StateGenerator[Latents]:
        request, recording = self.request, self.order.recording
        video, audio = yield from self._noise()
        image = yield from self._encode_picture(None, request.geometry.size)
        latents = Latents(
            video,
            audio,
            self.settings | {"upscale": None, "upscale_size": None},
            self.order.picture,
            None if recording is None else recording.soundtrack(request.geometry.frames),
        )
        yield self._state(StageName.DENOISE, 0, request.steps)
        for step in self.stages.denoise(
            text.prompt,
            video,
            audio,
            steps=request.steps,
            negative_text=text.negative.get(StageName.DENOISE),
            guidance=request.guidance,
            image=image,
            keep_audio=recording is not None,
            draw=self.draw,
            low_ram=StageName.DENOISE in self.streamed,
            on_block=self.on_block,
        ):
            self._check(StageName.DENOISE, "transformer", step, recording is not None)
            after = _after(StageName.DENOISE, step, replace(latents, audio=step.clean_audio))
            yield self._state(StageName.DENOISE, step.index, step.steps, after)
        return after

    def _upscale(self, text: Texts, latents: Latents) -> StateGenerator[Latents]:
        request = self.request
        width, height = request.final_size
        image = yield from self._encode_picture(latents, request.final_size)
        not_yet = replace(latents, settings=latents.settings | {"stopped": BEFORE_UPSCALING})
        yield self._state(StageName.UPSCALE, 0, request.upscale_steps, not_yet)
        for step in self.stages.upscale(
            text.prompt,
            latents.video,
            latents.audio,
            to=request.upscale or "",
            width=width,
            height=height,
            steps=request.upscale_steps,
            negative_text=text.negative.get(StageName.UPSCALE),
            guidance=request.upscale_guidance,
            image=image,
            align_corners=request.align_corners,
            draw=self.draw_upscaling,
            low_ram=StageName.UPSCALE in self.streamed,
            on_block=self.on_block,
        ):
            self._check(StageName.UPSCALE, f"upscaler_{request.upscale}", step, audio_given=True)
            after = _after(StageName.UPSCALE, step, replace(latents, settings=self.settings))
            yield self._state(StageName.UPSCALE, step.index, step.steps, after)
        return after

    def _check(self, stage: StageName, component: str, step: Step, audio_given: bool) -> None:
        made = [step.video, step.clean_video, *([] if audio_given else [step.audio])]
        check_latents(f"{stage} step {step.index}", *made, dtype=self.stages.computed_in(component))

    def _decode(self, latents: Latents) -> StateGenerator[None]:
        settings = latents.settings
        if settings.get("upscale") is None:  # its latents may have been kept to be upscaled later
            settings = settings | dict.fromkeys(Upscaling.__annotations__)
        yield State(StageName.SOUND, 0, 1, settings, latents)
        sound = latents.soundtrack
        if sound is None:
            sound = np.array(self.stages.decode_audio(latents.audio, self.on_block))
            check_audio(sound)
        yield State(StageName.SOUND, 1, 1, settings, latents, sound=sound)
        yield from self._decode_video(latents, settings, sound)

    def _decode_video(
        self, latents: Latents, settings: dict[str, Any], sound: np.ndarray
    ) -> StateGenerator[None]:
        total = pixel_frames(len(latents.video))
        yield State(StageName.PICTURE, 0, total, settings, latents)
        video: np.ndarray | None = None
        contrast, count = Contrast(), 0
        preview, colours = self.stages.kept_preview(), Colours()
        for window in self.stages.decode_video(latents.video):
            mx.eval(window)
            frames = np.array(window)
            contrast.add(frames)
            if preview is not None:
                colours.add(frames)
            if self.order.keep_frames:
                video = np.empty((total, *frames.shape[1:]), np.uint8) if video is None else video
                video[count : count + len(frames)] = frames
            count += len(frames)
            clip = None
            if count == total:
                contrast.check()
                if preview is not None:
                    self.stages.improve_preview(preview, latents.video, colours)
                clip = None if video is None else Clip(video, sound, settings)
            yield State(StageName.PICTURE, count, total, settings, latents, clip, frames)


def _after(stage: StageName, step: Step, latents: Latents) -> Latents:
    """Return the latents that a step predicts, marked as stopped if it was not the last."""
    if step.index < step.steps:
        stopped = {"stopped": f"after {stage} step {step.index} of {step.steps}"}
        latents = replace(latents, settings=latents.settings | stopped)
    return replace(latents, video=step.clean_video)
