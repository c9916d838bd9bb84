"""A model, a request and a machine → a plan. Reads configs only, no weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from ..errors import ModelError
from ..geometry import PATCH, Geometry
from ..inputs.prompts import MAX_TOKENS
from ..inputs.request import Request
from ..models import video_vae
from ..models.audio_vae import AudioVAEConfig
from ..models.text_encoder import TextEncoderConfig
from ..models.transformer import TransformerConfig
from ..models.turbo_decoder import TurboDecoderConfig
from ..models.video_vae import VideoVAEConfig
from ..storage import weights
from ..storage.dtypes import DTYPES
from ..storage.weights import Footprint
from . import costs, timings
from .costs import FP32, Arithmetic, Tokens
from .hardware import GB, Machine
from .plan import Inputs, Plan, StagePlan, peak_memory
from .stage import StageName
from .timings import Timing

CONVOLUTION_SPEED = 0.5  # of the speed of matrix products: an estimate, until a run was timed
SAVING = "save h264"
SAVED_PIXELS = 50e6  # pixels of H.264 a second: an estimate likewise
SOLVER_LATENTS = 7  # the state and its correction, two estimates of x0, velocity, next state, next estimate
DECODERS = ["video_decoder", "turbo_decoder"]  # what a video_decoder's config may be of


class Network(NamedTuple):
    """A component: its config, and what its weights take in memory."""

    config: dict[str, Any]
    weights: Footprint

    @property
    def kind(self) -> str:
        """What its speed depends on, beside the chip."""
        return f"{stored_as(self.config)} {self.weights.bytes / 1e6:.0f} MB"


def stored_as(config: dict[str, Any]) -> str:
    """Return how a network's large matrices are stored: "4 bits", or "bfloat16"."""
    if not (quantization := config.get("quantization")):
        return str(config.get("dtype", "float32"))
    default = 8 if quantization.get("mode") == "mxfp8" else 4  # MLX's own
    return f"{quantization.get('bits', default)} bits"


class Planner:
    """Plans runs of one model on one machine."""

    def __init__(self, folder: Path, dtype: mx.Dtype | None, machine: Machine):
        self.folder, self.dtype, self.machine = folder, dtype, machine
        self.networks: dict[str, Network] = {}

    @cached_property
    def timings(self) -> list[Timing]:
        return timings.read(self.machine.name)

    def plan(self, request: Request, inputs: Inputs, low_ram: bool | None) -> Plan:
        """Return the plan of a request; with `low_ram` None, transformers that do not fit are streamed.

        Raises ModelError for a damaged config."""
        stages = tuple(self._stages(request, inputs, low_ram))
        recorded = all(self._expected(stage.kind, stage.work) is not None for stage in stages)
        return Plan(self.machine, request, inputs, stages, recorded)

    def _stages(self, request: Request, inputs: Inputs, low_ram: bool | None) -> Iterator[StagePlan]:
        base, final = request.geometry, request.final_geometry
        features = FP32 * sum(map(_most_tokens, request.prompts)) * self._transformer.text_channels
        if inputs.texts:
            yield self._text(inputs.texts, features)
        if inputs.begin == StageName.TEXT:
            if inputs.recording:
                yield self._voice(base, features)
            if inputs.picture:
                yield self._image([base, final] if request.upscale else [base], features)
            yield self._denoising(StageName.DENOISE, request, low_ram, features)
        if request.upscale is not None:
            if inputs.picture and inputs.begin == StageName.UPSCALE:
                yield self._image([final], features)
            yield self._denoising(StageName.UPSCALE, request, low_ram, features)
        if not inputs.recording:
            yield self._sound(final)
        yield self._picture(final)
        latents, kind = self._latents(final), SAVING.removeprefix("save ")
        yield self._stage(StageName.SAVE, latents, final.pixels, final.pixels / SAVED_PIXELS, kind)

    def _text(self, texts: Sequence[str], features: int) -> StagePlan:
        network = self._network("text_encoder")
        config = TextEncoderConfig.from_dict(network.config)
        tokens = [_most_tokens(text) for text in texts]
        peak = max(costs.text_peak(config, n, self._arithmetic(network)) for n in tokens)
        states = sum(tokens) * config.hidden_size * FP32
        work = sum(costs.text_flops(config, n) for n in tokens)
        seconds = max(self._computing(work), self._reading(network))
        taken = network.weights.streamed_bytes + peak + states + features
        return self._stage(StageName.TEXT, taken, work, seconds, network.kind)

    def _voice(self, geometry: Geometry, features: int) -> StagePlan:
        network, config, how = self._audio()
        peak = costs.audio_peak(config, geometry.audio_latents, how, encoding=True)
        work = costs.audio_flops(config, geometry.audio_latents)
        taken = network.weights.part("encoder.") + peak + features
        return self._stage(StageName.VOICE, taken, work, self._convolving(work), network.kind)

    def _sound(self, geometry: Geometry) -> StagePlan:
        network, config, how = self._audio()
        peak = costs.audio_peak(config, geometry.audio_latents, how)
        samples = FP32 * geometry.audio_latents * math.prod(config.strides) * config.audio_channels
        work = costs.audio_flops(config, geometry.audio_latents)
        taken = network.weights.part("decoder.") + peak + 2 * samples + self._latents(geometry)
        return self._stage(StageName.SOUND, taken, work, self._convolving(work), network.kind)

    def _audio(self) -> tuple[Network, AudioVAEConfig, Arithmetic]:
        network = self._network("audio_vae")
        return network, AudioVAEConfig.from_dict(network.config), self._arithmetic(network)

    def _image(self, sizes: list[Geometry], features: int) -> StagePlan:
        network = self._network("video_encoder")
        config, how = VideoVAEConfig.from_dict(network.config), self._arithmetic(network)
        layers = [video_vae.encoder_convolutions(config, *size.grid) for size in sizes]
        peak = max(costs.wan_encoding_peak(x, how) for x in layers)
        work = sum(costs.wan_flops(x) for x in layers)
        seconds = self._convolving(work) + self._reading(network)
        return self._stage(StageName.IMAGE, peak + features, work, seconds, network.kind)

    def _picture(self, geometry: Geometry) -> StagePlan:
        network = self._network("video_decoder")
        how, count = self._arithmetic(network), geometry.latent_frames
        if network.config["type"] == "turbo_decoder":
            turbo = TurboDecoderConfig.from_dict(network.config)
            peak = costs.turbo_peak(turbo, count, *geometry.grid, how)
            work = costs.turbo_flops(turbo, count, *geometry.grid)
        else:
            wan = VideoVAEConfig.from_dict(network.config)
            layers = video_vae.decoder_convolutions(wan, *geometry.grid)
            peak = costs.wan_decoding_peak(layers, how)
            work = count * costs.wan_flops(layers)
        seconds = self._convolving(work) + self._reading(network)
        taken = network.weights.bytes + peak + 2 * self._latents(geometry)
        return self._stage(StageName.PICTURE, taken, work, seconds, network.kind)

    def _denoising(
        self, stage: StageName, request: Request, low_ram: bool | None, features: int
    ) -> StagePlan:
        if low_ram is not None:
            return self._steps(stage, request, low_ram, features)
        resident = self._steps(stage, request, False, features)
        if peak_memory(resident.bytes) <= self.machine.usable:
            return resident
        return self._steps(stage, request, True, features)

    def _steps(self, stage: StageName, request: Request, streamed: bool, features: int) -> StagePlan:
        base = stage == StageName.DENOISE
        network = self._network("transformer" if base else f"upscaler_{request.upscale}")
        config = TransformerConfig.from_dict(network.config)
        geometry = request.geometry if base else request.final_geometry
        steps = request.steps if base else request.upscale_steps
        passes = [_tokens(geometry, text) for text in _prompts(request, stage)]
        # Memory: weights, one pass, the rotation's cosines and sines, the solver's latents, text features.
        how, work_at_once = self._arithmetic(network), self.machine.work(streamed)
        peak = max(costs.transformer_peak(config, tokens, work_at_once, how) for tokens in passes)
        angles = sum(2 * FP32 * tokens.all * 3 * config.rope_bands for tokens in passes)
        held = network.weights.streamed_bytes if streamed else network.weights.bytes
        taken = held + peak + angles + SOLVER_LATENTS * self._latents(geometry) + features
        # Time: streaming, the slower of computing and reading counts; a resident model is read once.
        work = steps * sum(costs.transformer_flops(config, tokens) for tokens in passes)
        computing, reading = self._computing(work), self._reading(network)
        seconds = max(computing, reading * steps * len(passes)) if streamed else computing + reading
        kind = f"{network.kind}{' streamed' if streamed else ''}"
        elements = config.hidden_size * max(tokens.all for tokens in passes)
        return replace(self._stage(stage, taken, work, seconds, kind), streamed=streamed, elements=elements)

    def _stage(self, name: StageName, taken: float, work: float, seconds: float, kind: str) -> StagePlan:
        kind = f"{name} {kind}"
        expected = self._expected(kind, work)
        return StagePlan(name, int(taken), seconds if expected is None else expected, work, kind)

    def _expected(self, kind: str, work: float) -> float | None:
        return timings.expected(self.timings, kind, work)

    @cached_property
    def _transformer(self) -> TransformerConfig:
        return TransformerConfig.from_dict(self._network("transformer").config)

    def _latents(self, geometry: Geometry) -> int:
        """Return the bytes of a clip's latents."""
        config, cells = self._transformer, math.prod(geometry.video_shape)
        audio = geometry.audio_latents * config.audio_channels
        return FP32 * (cells * config.video_channels // PATCH**2 + audio)

    def _network(self, component: str) -> Network:
        if component not in self.networks:
            folder = self.folder / component
            config = weights.read_json(folder / "config.json")
            is_transformer = component == "transformer" or component.startswith("upscaler")
            types = ["transformer"] if is_transformer else [component]
            try:
                if config.get("type") not in (DECODERS if component == "video_decoder" else types):
                    raise ModelError(f"its config.json describes another network, {config.get('type')!r}.")
                taken = weights.footprint(config, self.dtype if is_transformer else None)
            except ModelError as error:
                raise ModelError(f"{folder} cannot be used: {error}") from error
            self.networks[component] = Network(config, taken)
        return self.networks[component]

    def _arithmetic(self, network: Network) -> Arithmetic:
        dtype = self.dtype if network.config["type"] == "transformer" else None
        dtype = dtype or DTYPES[network.config.get("dtype", "float32")]
        return Arithmetic(dtype.size, bool(network.config.get("quantization")), self.machine.backend == "cpu")

    def _computing(self, flops: float) -> float:
        return flops / (self.machine.chip.tflops * 1e12)

    def _convolving(self, flops: float) -> float:
        return self._computing(flops / CONVOLUTION_SPEED)

    def _reading(self, network: Network) -> float:
        return network.weights.bytes / (self.machine.chip.disk * GB)


def _prompts(request: Request, stage: StageName) -> list[str]:
    """Return the prompts of a stage, one for each pass of a step."""
    negative = request.negative_prompts
    return [request.prompt, *([negative[stage]] if stage in negative else [])]


def _tokens(geometry: Geometry, prompt: str) -> Tokens:
    video = geometry.video_tokens
    return Tokens(video, geometry.audio_latents, _most_tokens(prompt), geometry.latent_frames)


def _most_tokens(text: str) -> int:
    """Return about how many tokens a prompt has, rather too many: a token has three bytes or more."""
    return min(len(text.encode()) // 3 + 2, MAX_TOKENS)
