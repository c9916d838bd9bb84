"""Each stage of a run by itself: its network is loaded when the stage runs, and freed after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..diffusion import sampling, upscaling
from ..diffusion.checks import check_latents, check_pixels
from ..diffusion.sampling import LATE_GUIDANCE, Draw, Guidance, Step, UpscaleGuidance
from ..errors import RequestError, argument
from ..geometry import GRID, PATCH
from ..inputs.prompts import MAX_TOKENS, load_tokenizer, tokenize
from ..models.blocks import OnBlock, no_block
from ..models.transformer import TransformerConfig
from ..outputs.resampling import to_44100
from ..planning.hardware import this_machine
from ..planning.planner import stored_as
from ..runtime import watchdog
from ..runtime.memory import explain_errors, limits
from ..storage import hub, weights
from ..storage.snapshots import OnBytes
from . import preview, text_cache
from .preview import Colours, Preview

LARGE_NETWORKS = ("transformer", "upscaler_540p", "upscaler_1080p")


class Stages:
    """The stages of a model folder, with `mx.array`s in and out."""

    def __init__(
        self,
        folder: Path,
        name: str,
        dtype: mx.Dtype | None = None,
        low_ram: bool | None = None,
        dense_rows: float | None = None,
        on_fetch: OnBytes | None = None,
    ):
        self.folder, self.name, self.dtype, self.low_ram = folder, name, dtype, low_ram
        self.on_fetch = on_fetch
        self.machine = this_machine()
        if dense_rows is not None:
            chip = replace(self.machine.chip, dense_rows=dense_rows)
            self.machine = replace(self.machine, chip=chip)
        self.config = hub.describe(folder)
        self.variant: str = self.config["variant"]
        self.distilled = self.variant == "distill"

    def encode_text(self, prompt: str) -> mx.array:
        """Return a prompt's features (tokens, 3584) in fp32; note a prompt longer than 640 tokens."""
        return self.encode_texts([prompt])[0]

    def encode_texts(self, prompts: Iterable[str], on_block: OnBlock = no_block) -> list[mx.array]:
        """Return the features of several prompts; the encoder is loaded once."""
        if isinstance(prompts, str):
            raise RequestError("encode_texts takes a list of prompts; use encode_text for one.")
        prompts = list(prompts)
        features = text_cache.load(prompts, self._encoder)
        if missing := [prompt for prompt in dict.fromkeys(prompts) if prompt not in features]:
            features |= (new := dict(zip(missing, self._encode(missing, on_block), strict=True)))
            check_latents("text", *new.values())
            # Prompts that were cut are not cached, so that the note about it comes again.
            text_cache.store({p: x for p, x in new.items() if len(x) < MAX_TOKENS}, self._encoder)
        return [features[prompt] for prompt in prompts]

    def forget_texts(self, prompts: Iterable[str]) -> None:
        """Remove prompts from the cache: the next run encodes them again."""
        for prompt in prompts:
            text_cache.forget(prompt, self._encoder)

    def _encode(self, prompts: list[str], on_block: OnBlock) -> list[mx.array]:
        tokenizer = load_tokenizer(self._tokenizer_file)
        tokens = [tokenize(tokenizer, prompt) for prompt in prompts]
        with self._network("text_encoder", streamed=True) as encoder:
            # The model was trained on features that went through half precision.
            halves = [x[:MAX_TOKENS].astype(mx.float16) for x in encoder.encode(tokens, on_block)]
            features = [x.astype(mx.float32) for x in halves]
            mx.eval(features)
        return features

    def encode_image(self, pixels: mx.array) -> mx.array:
        """Encode pixels (height, width, 3) in [-1, 1] to a first frame (1, height/16, width/16, 48)."""
        with self._network("video_encoder") as encoder:
            latent: mx.array = encoder(pixels[None])
            mx.eval(latent)
            return latent

    def encode_audio(self, samples: mx.array, noise: mx.array | None = None) -> mx.array:
        """Encode samples (n, 2) at 51,200 Hz to latents (n // 2048, 64).

        Return their mean, or a sample where `noise` of that shape is given. More than 29 s are encoded in
        windows that overlap by half and are cross-faded."""
        with self._network("audio_vae") as vae:
            mean, scale = vae.encode(samples)
            latents: mx.array = mean if noise is None else vae.sample(mean, scale, noise)
            mx.eval(latents)
            return latents

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
        on_block: OnBlock = no_block,
    ) -> Iterator[Step]:
        """Denoise; yield the latents after every step.

        `text` and `negative_text` (tokens, 3584), `video` (frames, h, w, 48) and `audio` (n, 64) are fp32;
        `image` (1, h, w, 48) stays the first frame, and with `keep_audio` the audio stays as given. A
        distilled model needs `draw` for the noise of its steps; others take two passes per step where
        `guidance` is above 1. `low_ram` streams the weights, by default as `load` was told; None keeps them
        in memory, as a single stage has no plan. `on_block(done, total)` is called after every block of a
        step; what it raises ends the generator."""
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
                on_block=on_block,
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
        on_block: OnBlock = no_block,
    ) -> Iterator[Step]:
        """Upscale latents of `denoise` to `width` × `height` pixels; yield the latents after every step.

        Takes the arguments of `denoise`; `to` is "540p" or "1080p", `align_corners` that of `generate`. The
        steps' audio is the noisy one that the upscaler sees: decode the sound from the base stage's."""
        grid = height // GRID * PATCH, width // GRID * PATCH
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
                on_block=on_block,
            )

    def decode_video(self, latents: mx.array) -> Iterator[mx.array]:
        """Decode latents (n, h, w, 48); yield frames (some, 16h, 16w, 3) uint8, 4n - 3 in all."""
        with self._network("video_decoder") as decoder:
            for pixels in decoder(latents):
                check_pixels(pixels)
                # Truncated, not rounded, as in the reference.
                frames = (mx.clip(pixels * 0.5 + 0.5, 0, 1) * 255).astype(mx.uint8)
                mx.eval(frames)
                yield frames

    def decode_audio(self, latents: mx.array, on_block: OnBlock = no_block) -> mx.array:
        """Decode latents (n, 64) to samples (n · 1764, 2) at 44,100 Hz; loud ones may exceed [-1, 1]."""
        with self._network("audio_vae") as vae:
            samples = vae.decode(latents, on_block)
            mx.eval(samples)
            return mx.array(to_44100(np.array(samples)))

    def _streamed(self, low_ram: bool | None) -> bool:
        return bool(self.low_ram if low_ram is None else low_ram)

    @contextmanager
    def _network(self, component: str, streamed: bool = False) -> Iterator[Any]:
        network = self._load(component, streamed)
        resident = component in LARGE_NETWORKS and not streamed
        wired = sum(tensor.nbytes for tensor in weights.parameters(network).values()) if resident else 0
        with limits(wired), explain_errors(component.replace("_", " ")):
            try:
                yield network
            finally:
                weights.release(network)

    def _load(self, component: str, streamed: bool = False) -> Any:
        self._check_held(component)
        hub.fetch(self.folder, [component], self.on_fetch)
        dtype = self.dtype if component in LARGE_NETWORKS else None
        work = self.machine.work(streamed).times(watchdog.share())
        return weights.load(self.folder / component, dtype, work=work, streamed=streamed)

    def _check_held(self, component: str) -> None:
        if not (self.folder / component).is_dir():
            raise RequestError(
                f"{self.name} has no {component}, which this needs. Download it with: happyhorse download "
                f"magihuman-{self.variant} {argument('components')} {component}"
            )

    def computed_in(self, component: str) -> mx.Dtype:
        """Return the compute dtype of a transformer's large matrices."""
        return self.dtype or weights.stored(weights.read_json(self.folder / component / "config.json"))

    @property
    def bits(self) -> str:
        """The precision in which the transformer is stored: "4 bits", or "bfloat16"."""
        return stored_as(weights.read_json(self.folder / "transformer" / "config.json"))

    @property
    def latent_channels(self) -> tuple[int, int]:
        """Channels of the video latents and of the audio latents."""
        config = weights.read_json(self.folder / "transformer" / "config.json")
        dimensions = TransformerConfig.from_dict(config)
        return dimensions.video_channels // PATCH**2, dimensions.audio_channels

    def preview(self) -> Preview:
        """Return the decoder's map from latents to colours; fit one where none is cached."""
        return Preview.of(self._decoder, self.latent_channels[0], self.decode_video)

    def kept_preview(self) -> Preview | None:
        """Return the cached map from latents to colours, None if there is none."""
        return preview.load(self._decoder, self.latent_channels[0])

    def improve_preview(self, kept: Preview, latents: mx.array, colours: Colours) -> None:
        """Improve the map by a finished clip, for later ones."""
        kept.learn(np.array(latents), colours)
        kept.save(self._decoder)

    @property
    def _decoder(self) -> str:
        return weights.fingerprint(self.folder / "video_decoder")

    @property
    def _encoder(self) -> str:
        self._check_held("text_encoder")
        return weights.fingerprint(self.folder / "text_encoder")

    @property
    def _tokenizer_file(self) -> Path:
        return self.folder / "text_encoder" / "tokenizer.json"
