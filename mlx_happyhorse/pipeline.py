"""A model and what it can do: make clips, or each step of that by itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack, cast

import mlx.core as mx
import numpy as np
from PIL import Image

from . import hub, media, metadata, sampling, upscaling, weights
from .errors import RequestError
from .latents import Latents
from .media import Clip
from .models.transformer import Transformer, TransformerConfig
from .picture import Picture, digest, open_picture
from .precision import DTYPES
from .prompts import MAX_TOKENS, NEGATIVE_PROMPT, Prompt, load_tokenizer, tokenize
from .recording import Sound, open_recording
from .request import Request, Settings, Upscaling, follow_inputs
from .run import BEFORE_UPSCALING, Run, State, decode
from .sampling import LATE_GUIDANCE, Draw, Guidance, Step, UpscaleGuidance
from .sequence import PATCH

CACHE_BYTES = 1 << 30  # what MLX may keep of freed memory


class HappyHorse:
    """A model folder, ready to make clips. Networks are loaded when a stage needs them."""

    def __init__(self, folder: Path, name: str, dtype: mx.Dtype | None = None):
        self.folder, self.name, self.dtype = folder, name, dtype
        self.config = hub.describe(folder)
        self.variant: str = self.config["variant"]
        self.distilled = self.variant == "distill"

    @classmethod
    def load(cls, model: str | Path = "tiny", dtype: mx.Dtype | None = None) -> HappyHorse:
        """Opens a model by name, Hub repo or folder. Raises RequestError if there is no such model.

        `dtype` replaces what the transformer's large matrices are computed in, say fp16 for bf16."""
        if not isinstance(model, str | Path):
            raise RequestError(f"a model is a name, a Hub repo or a folder, not {model!r}.")
        if dtype not in (None, *DTYPES.values()):
            raise RequestError(f"dtype is one of {', '.join(map(str, DTYPES.values()))}, not {dtype!r}.")
        mx.set_cache_limit(CACHE_BYTES)
        return cls(hub.find(model), str(model), dtype)

    def generate(
        self,
        prompt: str | Prompt,
        *,
        image: Picture | None = None,
        audio: Sound | None = None,
        draw: Draw | None = None,
        on_progress: Callable[[State], None] | None = None,
        **settings: Unpack[Settings],
    ) -> Clip:
        """Makes a clip, as `stream` does; `on_progress` is shown every state on the way."""
        return _last_clip(self.stream(prompt, image=image, audio=audio, draw=draw, **settings), on_progress)

    def stream(
        self,
        prompt: str | Prompt,
        *,
        image: Picture | None = None,
        audio: Sound | None = None,
        draw: Draw | None = None,
        **settings: Unpack[Settings],
    ) -> Iterator[State]:
        """Makes a clip step by step; see `Settings` for what can be set.

        `image` is the first frame: a path, a PIL image or a uint8 array (height, width, 3). Unless width
        or height are given, the clip takes its shape. `audio` is a recording that the clip is made to and
        carries: a path, or samples (n,) or (n, 2) with their rate; unless seconds are given, the clip is as
        long. `draw` stands in for the seed's random numbers: a function from a shape to standard normal
        noise, called for the recording's latents or the audio's start, for the video's start, by the steps
        in their order, and for the upscaler's start. Raises RequestError at once for what cannot be done,
        and ModelError if the model's files are damaged.
        """
        picture = None if image is None else open_picture(image)
        recording = None if audio is None else open_recording(audio)
        defaults = self.config["sampling"]
        request = self.request(prompt, **follow_inputs(settings, defaults, picture, recording))
        self._check_components(_needed(request, picture))
        if notice := self.config.get("notice"):
            warnings.warn(f"{self.name}: {notice}", stacklevel=2)
        about = self._describe(request, _needed(request, picture)) | {
            "image": None if picture is None else metadata.source(image, digest(picture)),
            "audio": None if recording is None else metadata.source(audio, recording.digest),
            "seed": request.seed if draw is None else None,
        }
        return Run(self, request, about, draw).generate(picture, recording)

    def finish(
        self, latents: Latents, *, draw: Draw | None = None, **settings: Unpack[Upscaling]
    ) -> Iterator[State]:
        """Makes the clip of latents that were kept, step by step. With `upscale` among the settings they
        are upscaled first, with the same result as in a run that did so at once.

        Raises what `stream` raises, and RequestError for latents of another model."""
        if unknown := settings.keys() - Upscaling.__annotations__.keys():
            raise TypeError(f"finish takes no {min(unknown)}: the latents were made with their own.")
        channels = latents.video.shape[-1], latents.audio.shape[-1]
        if channels != self.latent_channels:
            raise RequestError(f"these latents are not {self.name}'s: they have {channels} channels.")
        if settings.get("upscale") is None:
            if given := [name for name, value in settings.items() if value is not None]:
                raise RequestError(f"{given[0]} does nothing without upscale, which says to what size.")
            needed = ["video_decoder", "audio_vae"]
            self._check_components(needed)
            return decode(self, latents)
        if size := latents.settings.get("upscale"):
            raise RequestError(f"these latents were upscaled to {size} already.")
        asked: dict[str, Any] = metadata.request_settings(latents.settings) | dict(settings)
        request = self._complete(asked.pop("prompt"), cast(Settings, asked))
        if latents.video.shape[:3] != request.latent_shapes[0] or len(latents.audio) != request.sounds:
            raise RequestError("these latents do not have the size that their settings speak of.")
        needed = _needed(request, latents.picture)
        self._check_components(needed)
        about = latents.settings | self._describe(request, needed)
        if about.get("stopped") == BEFORE_UPSCALING:
            del about["stopped"]
        about["weights"] |= {"transformer": latents.settings["weights"].get("transformer")}
        if draw is not None or latents.settings.get("seed") is None:
            about["seed"] = None
        return Run(self, request, about, draw).upscale(latents)

    def request(self, prompt: str | Prompt, **settings: Unpack[Settings]) -> Request:
        """The settings with this model's defaults for what is left open. Raises RequestError."""
        request = self._complete(prompt, settings)
        if self.distilled and request.guidance != 1:
            raise RequestError(f"{self.name} is distilled, it works without guidance: leave it out, or at 1.")
        negative = settings.get("negative_prompt")
        if negative not in (None, NEGATIVE_PROMPT, *request.avoided.values()):
            why = "is distilled and has no guidance" if self.distilled else "runs at guidance 1"
            warnings.warn(f"the negative prompt does nothing: {self.name} {why}.", stacklevel=2)
        return request

    def _complete(self, prompt: str | Prompt, settings: Settings) -> Request:
        request = Request.complete(prompt, settings, self.config["sampling"])
        if request.upscale is not None:
            self._check_held(f"upscaler_{request.upscale}")
        if request.upscale and request.upscale_negative_prompt and request.upscale_guidance == 1:
            warnings.warn("upscale_negative_prompt does nothing: upscale_guidance is 1.", stacklevel=3)
        return request

    def _describe(self, request: Request, components: list[str]) -> dict[str, Any]:
        """What the clip will say of itself, beside its pictures and sounds."""
        prints = {name: weights.fingerprint(self.folder / name) for name in components}
        dtype = None if self.dtype is None else str(self.dtype).rpartition(".")[2]
        model = {"model": self.name, "variant": self.variant, "dtype": dtype, "weights": prints}
        about = metadata.envelope() | asdict(request) | model
        if request.negative_prompt == NEGATIVE_PROMPT and NEGATIVE_PROMPT not in request.avoided.values():
            about["negative_prompt"] = None
        if request.upscale is None:
            about |= dict.fromkeys(Upscaling.__annotations__)
        return about

    def _check_components(self, names: list[str]) -> None:
        """Fetches and opens every file that will be needed, before hours go into the first of them."""
        for name in names:
            self._check_held(name)
        hub.fetch(self.folder, names)
        networks = {name: self._load(name) for name in names}
        if encoder := networks.get("text_encoder"):
            load_tokenizer(self._tokenizer_file)
            width = encoder.config.hidden_size
        base = networks.get("transformer")
        for name, model in networks.items():
            if isinstance(model, Transformer) and base is not None:
                needs, has = _interface(model.config), (*_interface(base.config)[:2], width)
                if needs != has:
                    raise RequestError(
                        f"the {name} does not fit this model: it takes video, audio and text of "
                        f"{needs} channels, not {has}."
                    )

    def encode_text(self, prompt: str) -> mx.array:
        """A prompt → its features (tokens, 3584) in fp32; warns if it is longer than 640 tokens."""
        return self.encode_texts([prompt])[0]

    def encode_texts(self, prompts: Iterable[str]) -> list[mx.array]:
        """The same for several prompts, with the encoder loaded once."""
        if isinstance(prompts, str):
            raise RequestError("several prompts are a list: for one there is encode_text.")
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
        """Samples (n, 2) at 51,200 Hz → latents (n // 2048, 64): their mean, or a draw by `noise` of that
        shape. More than 29 s are encoded in windows that overlap by half and are cross-faded."""
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
                guidance=Guidance(scale, scale, min(scale, LATE_GUIDANCE)) if scale > 1 else None,
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
        align_corners: bool = True,
    ) -> Iterator[Step]:
        """Latents of the base stage → latents for `width` × `height` pixels, a state after every step.

        Takes what `denoise` takes and gave; `to` is "540p" or "1080p". `align_corners` is `Upscaling`'s. The
        states' audio is only what the upscaler was shown: the sound is decoded from the base stage's."""
        grid = height // 16 // PATCH * PATCH, width // 16 // PATCH * PATCH
        video, audio = upscaling.start(video, audio, *grid, draw, align_corners)
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
        self._check_held(component)
        hub.fetch(self.folder, [component])
        computes = component == "transformer" or component.startswith("upscaler")
        return weights.load(self.folder / component, self.dtype if computes else None)

    def _check_held(self, component: str) -> None:
        if not (self.folder / component).is_dir():
            raise RequestError(
                f"{self.name} holds no {component}, which this needs. "
                f"Where it was downloaded: happyhorse download magihuman-{self.variant} "
                f"--components {component} (and --mlx-path, if it was given)."
            )

    @property
    def latent_channels(self) -> tuple[int, int]:
        """Of the video and of the audio."""
        config = weights.read_json(self.folder / "transformer" / "config.json")
        dimensions = TransformerConfig.from_dict(config)
        return dimensions.video_channels // PATCH**2, dimensions.audio_channels

    @property
    def _tokenizer_file(self) -> Path:
        return self.folder / "text_encoder" / "tokenizer.json"


def _last_clip(states: Iterable[State], on_progress: Callable[[State], None] | None) -> Clip:
    for state in states:
        if on_progress is not None:
            on_progress(state)
    assert state.clip is not None
    return state.clip


def _needed(request: Request, picture: Image.Image | None) -> list[str]:
    """The components of a run."""
    names = ["text_encoder", "transformer", "video_decoder", "audio_vae"]
    if picture is not None:
        names.append("video_encoder")
    if request.upscale is not None:
        names.append(f"upscaler_{request.upscale}")
    return names


def _interface(config: TransformerConfig) -> tuple[int, int, int]:
    return config.video_channels, config.audio_channels, config.text_channels
