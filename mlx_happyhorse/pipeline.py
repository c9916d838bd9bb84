"""From a prompt to a clip, stage by stage: each loads its network, runs it and lets it go."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, Unpack

import mlx.core as mx
import numpy as np
from PIL import Image

from . import hub, media, sampling, upscaling, weights
from .errors import ModelError, RequestError
from .media import Clip, Picture
from .models.transformer import TransformerConfig
from .prompts import MAX_TOKENS, load_tokenizer, tokenize
from .request import Request, Settings
from .sampling import Draw, Guidance, Step, UpscaleGuidance, draw_from
from .sequence import PATCH

CACHE_BYTES = 1 << 30  # what MLX may keep of freed memory


@dataclass
class State:
    """Where a run stands: after `step` of the `steps` of a `stage`.

    Stages are "text", "image", "denoise", "upscale", "picture" and "sound". `video` (frames, h, w, 48)
    and `audio` (n, 64) are the latents so far; `clip` is there in the last state of all.
    """

    stage: str
    step: int
    steps: int
    video: mx.array | None = None
    audio: mx.array | None = None
    clip: Clip | None = None


T = TypeVar("T")
Stages = Generator[State, None, T]  # shows its states and returns what it made


class HappyHorse:
    """A model folder, ready to make clips. Networks are loaded when a stage needs them."""

    def __init__(self, folder: Path, name: str, dtype: mx.Dtype | None = None):
        self.folder, self.name, self.dtype = folder, name, dtype
        self.config = hub.describe(folder)
        self.distilled = self.config["variant"] == "distill"

    @classmethod
    def load(cls, model: str | Path = "tiny", dtype: mx.Dtype | None = None) -> HappyHorse:
        """Opens a model by name, Hub repo or folder. Raises RequestError if there is no such model.

        `dtype` replaces what the transformer's large matrices are computed in, say fp16 for bf16."""
        mx.set_cache_limit(CACHE_BYTES)
        return cls(hub.find(model), str(model), dtype)

    def generate(
        self,
        prompt: str,
        *,
        image: Picture | None = None,
        draw: Draw | None = None,
        on_progress: Callable[[State], None] | None = None,
        **settings: Unpack[Settings],
    ) -> Clip:
        """Makes a clip, as `stream` does; `on_progress` is shown every state on the way."""
        for state in self.stream(prompt, image=image, draw=draw, **settings):
            if on_progress is not None:
                on_progress(state)
        assert state.clip is not None
        return state.clip

    def stream(
        self,
        prompt: str,
        *,
        image: Picture | None = None,
        draw: Draw | None = None,
        **settings: Unpack[Settings],
    ) -> Iterator[State]:
        """Makes a clip step by step; see `Settings` for what can be set.

        `image` is the first frame: a path, a PIL image or a uint8 array (height, width, 3). `draw`
        stands in for the seed's random numbers: a function from a shape to standard normal noise, called
        for the audio's and the video's start, then by the steps in their order. Raises RequestError at
        once for what cannot be done, and ModelError if the model lacks what this needs.
        """
        request = self.request(prompt, **settings)
        picture = None if image is None else media.open_image(image)
        self._check_components(request, with_image=picture is not None)
        if notice := self.config.get("notice"):
            warnings.warn(f"{self.name}: {notice}", stacklevel=2)
        return self._run(request, picture, draw or draw_from(mx.random.key(request.seed)))

    def request(self, prompt: str, **settings: Unpack[Settings]) -> Request:
        """The settings with this model's defaults for what is left open. Raises RequestError."""
        request = Request.complete(prompt, settings, self.config["sampling"])
        if self.distilled and request.guidance != 1:
            raise RequestError(f"{self.name} is distilled, it works without guidance: leave it out.")
        if request.upscale is not None and not (self.folder / f"upscaler_{request.upscale}").is_dir():
            raise RequestError(f"{self.name} holds no upscaler to {request.upscale}.")
        return request

    def _check_components(self, request: Request, with_image: bool) -> None:
        """Opens every file that will be needed, before hours go into the first of them."""
        needed = ["text_encoder", "transformer", "video_decoder", "audio_vae"]
        if with_image:
            needed.append("video_encoder")
        if request.upscale is not None:
            needed.append(f"upscaler_{request.upscale}")
        for component in needed:
            self._load(component)
        load_tokenizer(self._tokenizer_file)

    def _run(self, request: Request, picture: Image.Image | None, draw: Draw) -> Stages[None]:
        text, negative = yield from self._read_prompts(request)
        image = yield from self._first_frame(picture, request.width, request.height)
        video, audio = yield from self._denoise(request, text, negative, image, draw)
        if request.upscale is not None:
            image = yield from self._first_frame(picture, *request.final_size)
            video = yield from self._upscale(request, text, video, audio, image, draw)
        frames = yield from self._picture(video, audio)
        yield State("sound", 0, 1, video, audio)
        sound = np.array(self.decode_audio(audio))
        clip = Clip(frames, sound, asdict(request) | {"model": self.name})
        yield State("sound", 1, 1, video, audio, clip)

    def _read_prompts(self, request: Request) -> Stages[tuple[mx.array, mx.array | None]]:
        prompts = [request.prompt]
        if request.guidance > 1:
            prompts.append(request.negative_prompt)
        yield State("text", 0, 1)
        text, *rest = self.encode_texts(prompts)
        yield State("text", 1, 1)
        return text, rest[0] if rest else None

    def _first_frame(self, picture: Image.Image | None, width: int, height: int) -> Stages[mx.array | None]:
        if picture is None:
            return None
        yield State("image", 0, 1)
        latent = self.encode_image(mx.array(media.fit_image(picture, width, height)))
        yield State("image", 1, 1)
        return latent

    def _denoise(
        self,
        request: Request,
        text: mx.array,
        negative_text: mx.array | None,
        image: mx.array | None,
        draw: Draw,
    ) -> Stages[tuple[mx.array, mx.array]]:
        video_shape, audio_shape = request.latent_shapes
        video_channels, audio_channels = self._latent_channels()
        audio = draw((*audio_shape, audio_channels))
        video = draw((*video_shape, video_channels))
        yield State("denoise", 0, request.steps, video, audio)
        for step in self.denoise(
            text,
            video,
            audio,
            steps=request.steps,
            negative_text=negative_text,
            guidance=request.guidance,
            image=image,
            draw=draw,
        ):
            video, audio = step.video, step.audio
            yield State("denoise", step.index, step.steps, video, audio)
        return video, audio

    def _upscale(
        self,
        request: Request,
        text: mx.array,
        video: mx.array,
        audio: mx.array,
        image: mx.array | None,
        draw: Draw,
    ) -> Stages[mx.array]:
        width, height = request.final_size
        yield State("upscale", 0, request.upscale_steps, video, audio)
        for step in self.upscale(
            text,
            video,
            audio,
            to=request.upscale or "",
            width=width,
            height=height,
            steps=request.upscale_steps,
            image=image,
            draw=draw,
        ):
            video = step.video
            yield State("upscale", step.index, step.steps, video, audio)
        return video

    def _picture(self, video: mx.array, audio: mx.array) -> Stages[np.ndarray]:
        yield State("picture", 0, len(video), video, audio)
        windows: list[np.ndarray] = []
        for window in self.decode_video(video):
            windows.append(np.array(window))
            latents_done = (sum(map(len, windows)) + 3) // 4
            yield State("picture", latents_done, len(video), video, audio)
        return np.concatenate(windows)

    def encode_text(self, prompt: str) -> mx.array:
        """A prompt → its features (tokens, 3584) in fp32; warns if it is longer than 640 tokens."""
        return self.encode_texts([prompt])[0]

    def encode_texts(self, prompts: Iterable[str]) -> list[mx.array]:
        """The same for several prompts, with the encoder loaded once."""
        tokenizer = load_tokenizer(self._tokenizer_file)
        tokens = [tokenize(tokenizer, prompt) for prompt in prompts]
        with self._network("text_encoder") as encoder:
            # The model was trained on features that went through half precision.
            features = [encoder(ids)[:MAX_TOKENS].astype(mx.float16).astype(mx.float32) for ids in tokens]
            mx.eval(features)
        return features

    def encode_image(self, pixels: mx.array) -> mx.array:
        """Pixels (height, width, 3) in [-1, 1] → the first frame's latent (1, height/16, width/16, 48)."""
        with self._network("video_encoder") as encoder:
            return encoder(pixels[None])

    def encode_audio(self, samples: mx.array, noise: mx.array | None = None) -> mx.array:
        """Samples (n, 2) at 51,200 Hz → latents (n // 2048, 64): their mean, or a draw by `noise`."""
        with self._network("audio_vae") as vae:
            mean, scale = vae.encode(samples)
            return mean if noise is None else vae.sample(mean, scale, noise)

    def denoise(
        self,
        text: mx.array,
        video: mx.array,
        audio: mx.array,
        *,
        steps: int | None = None,
        negative_text: mx.array | None = None,
        guidance: float | None = None,
        image: mx.array | None = None,
        keep_audio: bool = False,
        draw: Draw | None = None,
    ) -> Iterator[Step]:
        """Noise → latents, a state after every step.

        `text` and `negative_text` (tokens, 3584), `video` (frames, h, w, 48) and `audio` (n, 64) are fp32;
        `image` (1, h, w, 48) stays the first frame, and with `keep_audio` the audio stays as given. A
        distilled model needs `draw` for the noise of its steps; others take two passes a step when
        `guidance` is above 1."""
        defaults = self.config["sampling"]
        scale = defaults["guidance"] if guidance is None else guidance
        if self.distilled and draw is None:
            raise RequestError("a distilled model draws noise at every step: pass draw.")
        with self._network("transformer") as model:
            yield from sampling.denoise(
                model,
                text,
                video,
                audio,
                steps=steps or defaults["steps"],
                negative_text=negative_text,
                guidance=Guidance(scale, scale) if scale > 1 else None,
                image=image,
                keep_audio=keep_audio,
                draw=draw if self.distilled else None,
            )

    def upscale(
        self,
        text: mx.array,
        video: mx.array,
        audio: mx.array,
        *,
        to: str,
        width: int,
        height: int,
        draw: Draw,
        steps: int | None = None,
        negative_text: mx.array | None = None,
        guidance: float = 1,
        image: mx.array | None = None,
    ) -> Iterator[Step]:
        """Latents of the base stage → latents for `width` × `height` pixels, a state after every step.

        Takes what `denoise` takes and gave; `to` is "540p" or "1080p". The states' audio is only what
        the upscaler was shown: the sound is decoded from the base stage's."""
        video, audio = upscaling.start(video, audio, height // 16, width // 16, draw)
        with self._network(f"upscaler_{to}") as model:
            yield from sampling.denoise(
                model,
                text,
                video,
                audio,
                steps=steps or self.config["sampling"]["upscale_steps"],
                negative_text=negative_text,
                guidance=UpscaleGuidance(guidance) if guidance > 1 else None,
                image=image,
                keep_audio=True,
            )

    def decode_video(self, latents: mx.array) -> Iterator[mx.array]:
        """Latents (n, h, w, 48) → frames in runs of (some, 16h, 16w, 3) uint8, 4n - 3 in all."""
        with self._network("video_decoder") as decoder:
            for pixels in decoder(latents):
                # Truncated, not rounded, as in the reference.
                yield (mx.clip(pixels * 0.5 + 0.5, 0, 1) * 255).astype(mx.uint8)

    def decode_audio(self, latents: mx.array) -> mx.array:
        """Latents (n, 64) → samples (n · 1764, 2) at 44,100 Hz; loud ones may lie beyond [-1, 1]."""
        with self._network("audio_vae") as vae:
            return mx.array(media.to_44100(np.array(vae.decode(latents))))

    @contextmanager
    def _network(self, component: str) -> Iterator[Any]:
        mx.clear_cache()
        yield self._load(component)

    def _load(self, component: str) -> Any:
        folder = self.folder / component
        if not folder.is_dir():
            raise ModelError(f"{self.folder} holds no {component}, which this needs.")
        computes = component == "transformer" or component.startswith("upscaler")
        return weights.load(folder, self.dtype if computes else None)

    def _latent_channels(self) -> tuple[int, int]:
        config = weights.read_json(self.folder / "transformer" / "config.json")
        dimensions = TransformerConfig.from_dict(config)
        return dimensions.video_channels // PATCH**2, dimensions.audio_channels

    @property
    def _tokenizer_file(self) -> Path:
        return self.folder / "text_encoder" / "tokenizer.json"
