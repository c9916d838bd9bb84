"""A model and what it can do: make clips, or each step of that by itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack, cast

import mlx.core as mx
import numpy as np

from . import hub, media, metadata, sampling, text_cache, upscaling, weights
from .errors import RequestError
from .latents import Latents
from .machine import this_machine
from .media import FPS, Clip
from .memory import explained, limits
from .models.transformer import Transformer, TransformerConfig
from .observing import observed
from .picture import Picture, digest, open_picture
from .plan import DoesNotFit, Inputs, Plan, Planner, bits_of, refusal
from .precision import DTYPES
from .prompts import MAX_TOKENS, NEGATIVE_PROMPT, Prompt, load_tokenizer, tokenize
from .recording import Sound, open_recording
from .request import Request, Settings, Upscaling, follow_inputs
from .run import BEFORE_UPSCALING, Run, State, decode
from .sampling import LATE_GUIDANCE, Draw, Guidance, Step, UpscaleGuidance
from .sanity import check_latents, check_pixels
from .sequence import PATCH

DECODING = ["video_decoder", "audio_vae"]
LARGE_NETWORKS = ("transformer", "upscaler_540p", "upscaler_1080p")


class HappyHorse:
    """A model folder, ready to make clips. Networks are loaded when a stage needs them."""

    def __init__(
        self,
        folder: Path,
        name: str,
        dtype: mx.Dtype | None = None,
        low_ram: bool | None = None,
        dense_rows: float | None = None,
    ):
        self.folder, self.name, self.dtype, self.low_ram = folder, name, dtype, low_ram
        self.machine = this_machine()
        if dense_rows is not None:
            chip = replace(self.machine.chip, dense_rows=dense_rows)
            self.machine = replace(self.machine, chip=chip)
        self.config = hub.describe(folder)
        self.variant: str = self.config["variant"]
        self.distilled = self.variant == "distill"

    @classmethod
    def load(
        cls,
        model: str | Path = "tiny",
        dtype: mx.Dtype | None = None,
        low_ram: bool | None = None,
        dense_rows: float | None = None,
    ) -> HappyHorse:
        """Opens a model by name, Hub repo or folder. Raises RequestError if there is no such model.

        `dtype` replaces what the transformer's large matrices are computed in, say fp16 for bf16. With
        `low_ram` they are read anew from the disk for every step; None does so where they do not fit. From
        `dense_rows` tokens on quantized matrices are expanded before they are multiplied: None is as the
        chip likes it."""
        if not isinstance(model, str | Path):
            raise RequestError(f"a model is a name, a Hub repo or a folder, not {model!r}.")
        if dtype is not None and not (isinstance(dtype, mx.Dtype) and dtype in DTYPES.values()):
            raise RequestError(f"dtype is one of {', '.join(map(str, DTYPES.values()))}, not {dtype!r}.")
        if dense_rows is not None and not dense_rows >= 1:
            raise RequestError(f"dense_rows is a number of tokens from 1, not {dense_rows!r}.")
        return cls(hub.find(model), str(model), dtype, low_ram, dense_rows)

    def generate(
        self,
        prompt: str | Prompt,
        *,
        image: Picture | None = None,
        audio: Sound | None = None,
        draw: Draw | None = None,
        force: bool = False,
        on_progress: Callable[[State], None] | None = None,
        **settings: Unpack[Settings],
    ) -> Clip:
        """Makes a clip, as `stream` does; `on_progress` is shown every state on the way."""
        states = self.stream(prompt, image=image, audio=audio, draw=draw, force=force, **settings)
        return _last_clip(states, on_progress)

    def plan(
        self,
        prompt: str | Prompt,
        *,
        image: Picture | None = None,
        audio: Sound | None = None,
        **settings: Unpack[Settings],
    ) -> Plan:
        """What `stream` would take on this machine, with the same arguments: memory and seconds, stage by
        stage. Nothing is loaded. Raises RequestError for what cannot be done."""
        picture = None if image is None else open_picture(image)
        recording = None if audio is None else open_recording(audio)
        request = self.request(prompt, **follow_inputs(settings, self.config["sampling"], picture, recording))
        return self._plan(request, picture is not None, recording is not None)

    def _plan(self, request: Request, picture: bool, recording: bool, begin: str = "text") -> Plan:
        texts = [request.prompt, *request.avoided.values()]
        for name in _needed(request, picture) if begin != "sound" else DECODING:
            self._check_held(name)
            weights.read_json(self.folder / name / "config.json")
        new = [] if begin == "sound" else sorted(set(texts) - text_cache.known(texts, self._encoder))
        planner = Planner(self.folder, self.dtype, self.machine)
        return planner.plan(request, Inputs(picture, recording, tuple(new), begin), self.low_ram)

    @property
    def _encoder(self) -> str:
        return weights.fingerprint(self.folder / "text_encoder")

    def stream(
        self,
        prompt: str | Prompt,
        *,
        image: Picture | None = None,
        audio: Sound | None = None,
        draw: Draw | None = None,
        force: bool = False,
        keep_frames: bool = True,
        **settings: Unpack[Settings],
    ) -> Iterator[State]:
        """Makes a clip step by step; see `Settings` for what can be set.

        `image` is the first frame: a path, a PIL image or a uint8 array (height, width, 3). Unless width
        or height are given, the clip takes its shape. `audio` is a recording that the clip is made to and
        carries: a path, or samples (n,) or (n, 2) with their rate; unless seconds are given, the clip is as
        long. `draw` stands in for the seed's random numbers: a function from a shape to standard normal
        noise, called for the recording's latents or the audio's start, for the video's start, by the steps
        in their order, and for the upscaler's start. Without `keep_frames` the last state holds no clip, and
        memory does not grow with its length: sound and frames are in the states that they come with.

        Raises RequestError at once for what cannot be done, DoesNotFit if it takes more memory than there
        is, unless with `force`, ModelError if the model's files are damaged. On the way it raises
        OutOfResources if the machine gives up, and BrokenRun if what was made makes no sense.
        """
        picture = None if image is None else open_picture(image)
        recording = None if audio is None else open_recording(audio)
        defaults = self.config["sampling"]
        request = self.request(prompt, **follow_inputs(settings, defaults, picture, recording))
        needed = _needed(request, picture is not None)
        plan = self._plan(request, picture is not None, recording is not None)
        if not force:
            self._check_fit(plan)
        self._check_components(needed)
        if notice := self.config.get("notice"):
            warnings.warn(f"{self.name}: {notice}", stacklevel=2)
        about = self._describe(request, needed) | {
            "image": None if picture is None else metadata.source(image, digest(picture)),
            "audio": None if recording is None else metadata.source(audio, recording.digest),
            "seed": request.seed if draw is None else None,
        }
        run = Run(self, request, about, draw, plan.low_ram, keep_frames)
        return observed(run.generate(picture, recording), plan)

    def finish(
        self,
        latents: Latents,
        *,
        draw: Draw | None = None,
        force: bool = False,
        keep_frames: bool = True,
        **settings: Unpack[Upscaling],
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
            self._check_components(DECODING)
            plan = self._plan_decoding(latents)
            if not force:
                self._check_fit(plan)
            return observed(decode(self, latents, keep_frames), plan)
        if size := latents.settings.get("upscale"):
            raise RequestError(f"these latents were upscaled to {size} already.")
        asked: dict[str, Any] = metadata.request_settings(latents.settings) | dict(settings)
        request = self._complete(asked.pop("prompt"), cast(Settings, asked))
        if latents.video.shape[:3] != request.latent_shapes[0] or len(latents.audio) != request.sounds:
            raise RequestError("these latents do not have the size that their settings speak of.")
        needed = _needed(request, latents.picture is not None)
        plan = self._plan(request, latents.picture is not None, latents.soundtrack is not None, "upscale")
        if not force:
            self._check_fit(plan)
        self._check_components(needed)
        about = latents.settings | self._describe(request, needed)
        if about.get("stopped") == BEFORE_UPSCALING:
            del about["stopped"]
        about["weights"] |= {"transformer": latents.settings["weights"].get("transformer")}
        if draw is not None or latents.settings.get("seed") is None:
            about["seed"] = None
        return observed(Run(self, request, about, draw, plan.low_ram, keep_frames).upscale(latents), plan)

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

    def _plan_decoding(self, latents: Latents) -> Plan:
        _, rows, columns, _ = latents.video.shape
        seconds = (len(latents.audio) - 1) / FPS
        asked = Settings(seconds=seconds, width=16 * columns, height=16 * rows)
        request = Request.complete("decoded", asked, self.config["sampling"])
        return self._plan(request, False, latents.soundtrack is not None, "sound")

    def _check_fit(self, plan: Plan) -> None:
        if not plan.fits:
            raise DoesNotFit(self.refusal(plan))

    def refusal(self, plan: Plan) -> str:
        """Why a plan does not fit, and the smallest change that would."""
        return refusal(plan, Planner(self.folder, self.dtype, self.machine))

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
        prompts = list(prompts)
        features = text_cache.load(prompts, self._encoder)
        if missing := [prompt for prompt in dict.fromkeys(prompts) if prompt not in features]:
            features |= (new := dict(zip(missing, self._read_texts(missing), strict=True)))
            check_latents("text", *new.values())
            whole = {prompt: x for prompt, x in new.items() if len(x) < MAX_TOKENS}  # of others, warn again
            text_cache.store(whole, self._encoder)
        return [features[prompt] for prompt in prompts]

    def _read_texts(self, prompts: list[str]) -> list[mx.array]:
        tokenizer = load_tokenizer(self._tokenizer_file)
        tokens = [tokenize(tokenizer, prompt) for prompt in prompts]
        with self._network("text_encoder", streamed=True) as encoder:
            # The model was trained on features that went through half precision.
            halves = [x[:MAX_TOKENS].astype(mx.float16) for x in encoder.encode(tokens)]
            features = [x.astype(mx.float32) for x in halves]
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
        low_ram: bool | None = None,
    ) -> Iterator[Step]:
        """Noise → latents, a state after every step.

        `text` and `negative_text` (tokens, 3584), `video` (frames, h, w, 48) and `audio` (n, 64) are fp32;
        `image` (1, h, w, 48) stays the first frame, and with `keep_audio` the audio stays as given. A
        distilled model needs `draw` for the noise of its steps; others take two passes a step when
        `guidance` is above 1. `low_ram` is by default what `load` was given."""
        defaults = self.config["sampling"]
        scale = defaults["guidance"] if guidance is None else guidance
        if self.distilled and draw is None:
            raise RequestError("a distilled model draws noise at every step: pass draw.")
        with self._network("transformer", self._streamed(low_ram)) as model:
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
        low_ram: bool | None = None,
    ) -> Iterator[Step]:
        """Latents of the base stage → latents for `width` × `height` pixels, a state after every step.

        Takes what `denoise` takes and gave; `to` is "540p" or "1080p". `align_corners` is `Upscaling`'s. The
        states' audio is only what the upscaler was shown: the sound is decoded from the base stage's."""
        grid = height // 16 // PATCH * PATCH, width // 16 // PATCH * PATCH
        video, audio = upscaling.start(video, audio, *grid, draw, align_corners)
        with self._network(f"upscaler_{to}", self._streamed(low_ram)) as model:
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
                check_pixels(pixels)
                # Truncated, not rounded, as in the reference.
                frames = (mx.clip(pixels * 0.5 + 0.5, 0, 1) * 255).astype(mx.uint8)
                mx.eval(frames)
                yield frames

    def decode_audio(self, latents: mx.array) -> mx.array:
        """Latents (n, 64) → samples (n · 1764, 2) at 44,100 Hz; loud ones may lie beyond [-1, 1]."""
        with self._network("audio_vae") as vae:
            samples = vae.decode(latents)
            mx.eval(samples)
            return mx.array(media.to_44100(np.array(samples)))

    def _streamed(self, low_ram: bool | None) -> bool:
        return bool(self.low_ram if low_ram is None else low_ram)

    @contextmanager
    def _network(self, component: str, streamed: bool = False) -> Iterator[Any]:
        network = self._load(component, streamed)
        stays = component in LARGE_NETWORKS and not streamed
        wired = sum(tensor.nbytes for tensor in weights.parameters(network).values()) if stays else 0
        with limits(wired), explained(component.replace("_", " ")):
            yield network
            del network

    def _load(self, component: str, streamed: bool = False) -> Any:
        self._check_held(component)
        hub.fetch(self.folder, [component])
        dtype = self.dtype if component in LARGE_NETWORKS else None
        return weights.load(
            self.folder / component, dtype, work=self.machine.work(streamed), streamed=streamed
        )

    def _check_held(self, component: str) -> None:
        if not (self.folder / component).is_dir():
            raise RequestError(
                f"{self.name} holds no {component}, which this needs. "
                f"Where it was downloaded: happyhorse download magihuman-{self.variant} "
                f"--components {component} (and --mlx-path, if it was given)."
            )

    @property
    def bits(self) -> str:
        """How the transformer's large matrices are stored: "4 bits", say, or "bfloat16"."""
        return bits_of(weights.read_json(self.folder / "transformer" / "config.json"))

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


def _needed(request: Request, picture: bool) -> list[str]:
    """The components of a run."""
    names = ["text_encoder", "transformer", *DECODING]
    if picture:
        names.append("video_encoder")
    if request.upscale is not None:
        names.append(f"upscaler_{request.upscale}")
    return names


def _interface(config: TransformerConfig) -> tuple[int, int, int]:
    return config.video_channels, config.audio_channels, config.text_channels
