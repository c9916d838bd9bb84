"""What a run will take: memory and time, stage by stage, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from ..diffusion.sequence import PATCH
from ..errors import ModelError
from ..inputs.prompts import MAX_TOKENS
from ..inputs.request import Request
from ..models.audio_vae import AudioVAEConfig
from ..models.text_encoder import TextEncoderConfig
from ..models.transformer import TransformerConfig
from ..models.turbo_decoder import TurboDecoderConfig
from ..models.video_vae import VideoVAEConfig
from ..runtime import streaming
from ..runtime.memory import CACHE_BYTES
from ..storage import weights
from ..storage.dtypes import DTYPES
from . import costs, timings
from .costs import Arithmetic, Tokens
from .hardware import GB, Machine
from .timings import Timing

PROCESS = 400 * 2**20  # Python, the libraries, frames on their way into the file
CONVOLVING = 0.5  # of the speed of matrix products, to plan with
SAVING = "save h264"
ENCODED = 50e6  # pixels of H.264 a second, to plan with
FP32 = 4
LARGEST = 2**31  # elements of an array, which MLX's kernels count in 32 bits
TYPES = {"video_decoder": ["video_decoder", "turbo_decoder"]}  # where a network's is not its component's
WITH_FRAMES = ("picture", "save")


@dataclass(frozen=True)
class Stage:
    """What a stage takes: bytes at its peak, as MLX counts them; seconds; `work` in floating point
    operations (of "save": pixels), and the `kind` that its speed hangs on, under which it is recorded.

    `streamed` tells whether its weights are read anew for every step, `elements` are its largest array's."""

    name: str
    bytes: int
    seconds: float
    work: float
    kind: str
    streamed: bool = False
    elements: int = 0


@dataclass(frozen=True)
class Inputs:
    """What a run is given beside its settings: a first frame, a recording, prompts that must be encoded
    anew. `begin` is "text", or "upscale" or "sound" where it goes on from latents. All frames are in memory
    at the end if `keep_frames`."""

    picture: bool = False
    recording: bool = False
    texts: tuple[str, ...] = ()
    begin: str = "text"
    keep_frames: bool = False


@dataclass(frozen=True)
class Plan:
    """The stages of a run on a machine."""

    machine: Machine
    request: Request
    inputs: Inputs
    stages: tuple[Stage, ...]
    recorded: bool  # all times come from earlier runs on this machine

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def needed(self) -> int:
        """Bytes of memory in all."""
        return max(map(self._needed, self.stages))

    def _needed(self, stage: Stage) -> int:
        width, height = self.request.final_size
        kept = self.inputs.keep_frames and stage.name in WITH_FRAMES
        return in_all(stage.bytes) + (3 * width * height * self.request.frames if kept else 0)

    @property
    def fits(self) -> bool:
        return self.needed <= self.machine.usable and self.longest.elements < LARGEST

    @property
    def highest(self) -> Stage:
        """The one that takes most memory."""
        return max(self.stages, key=self._needed)

    @property
    def longest(self) -> Stage:
        """The one with the largest array."""
        return max(self.stages, key=lambda stage: stage.elements)

    @property
    def low_ram(self) -> bool:
        """Whether weights are read anew for every step, in one stage at least."""
        return any(stage.streamed for stage in self.stages)

    def __str__(self) -> str:
        """In one line."""
        width, height = self.request.final_size
        how = ", weights streamed" if self.low_ram else ""
        return (
            f"≈ {duration(self.seconds)} · peak {self.needed / GB:.1f} of {self.machine.memory / GB:.0f} GB"
            f" · {width}×{height}, {self.request.frames} frames{how}"
        )

    def table(self) -> str:
        """Stage by stage."""
        rows = [f"{'stage':<10}{'memory':>10}{'time':>14}"]
        for stage in self.stages:
            rows.append(f"{stage.name:<10}{stage.bytes / GB:>7.2f} GB{duration(stage.seconds):>14}")
        source = (
            "times of earlier runs here" if self.recorded else "times from a table, not yet of this machine"
        )
        rows.append(f"{self.machine.name}, {self.machine.usable / GB:.1f} GB may be used; {source}")
        return "\n".join([*rows, str(self)])


def duration(seconds: float) -> str:
    """As a person says it: 8 s, 6 min, 1 h 20 min."""
    if seconds < 99.5:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


class Network(NamedTuple):
    """A component's config, and the bytes of its tensors by name."""

    config: dict[str, Any]
    sizes: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())

    def part(self, prefix: str) -> int:
        return sum(size for name, size in self.sizes.items() if name.startswith(prefix))

    @property
    def streamed(self) -> int:
        """Bytes that stay where units are streamed, and those that these take."""
        layers = {name: size for name, size in self.sizes.items() if module_of(name)}
        units = [(module_of(name), size) for name, size in layers.items()]
        return self.bytes - sum(layers.values()) + streaming.budget(units)

    @property
    def kind(self) -> str:
        """What its speed hangs on, beside the chip."""
        return f"{bits_of(self.config)} {self.bytes / 1e6:.0f} MB"


def bits_of(config: dict[str, Any]) -> str:
    """How a network's large matrices are stored: "4 bits", say, or "bfloat16"."""
    if not (quantization := config.get("quantization")):
        return str(config.get("dtype", "float32"))
    usual = 8 if quantization.get("mode") == "mxfp8" else 4  # MLX's own
    return f"{quantization.get('bits', usual)} bits"


def module_of(name: str) -> str:
    """Of a tensor's name, the module that is streamed as one; empty if it is of none."""
    words = name.split(".")
    if words[0] == "layers":
        return ".".join(words[: 4 if words[2] == "experts" else 2])
    return words[0] if words[0] == "embed_tokens" else ""


class Planner:
    """Plans runs of one model on one machine."""

    def __init__(self, folder: Path, dtype: mx.Dtype | None, machine: Machine):
        self.folder, self.dtype, self.machine = folder, dtype, machine
        self.networks: dict[str, Network] = {}

    @cached_property
    def timings(self) -> list[Timing]:
        return timings.read(self.machine.name)

    def plan(self, request: Request, inputs: Inputs, low_ram: bool | None) -> Plan:
        """`low_ram` None streams every transformer that does not fit otherwise."""
        stages = tuple(self._stages(request, inputs, low_ram))
        recorded = all(self._expected(stage.kind, stage.work) is not None for stage in stages)
        return Plan(self.machine, request, inputs, stages, recorded)

    def _stages(self, request: Request, inputs: Inputs, low_ram: bool | None) -> Iterator[Stage]:
        prompts = {request.prompt, *request.avoided.values()}
        features = FP32 * sum(map(_most_tokens, prompts)) * self._transformer.text_channels
        if inputs.texts:
            yield self._text(inputs.texts, features)
        size, final = (request.width, request.height), request.final_size
        if inputs.begin == "text":
            if inputs.recording:
                yield self._voice(request, features)
            if inputs.picture:
                yield self._image([size, final] if request.upscale else [size], features)
            yield self._denoising("denoise", "transformer", request, low_ram, features)
        if request.upscale is not None:
            if inputs.picture and inputs.begin == "upscale":
                yield self._image([final], features)
            yield self._denoising("upscale", f"upscaler_{request.upscale}", request, low_ram, features)
        latents = self._latents(request, final)
        if not inputs.recording:
            yield self._sound(request, latents)
        yield self._picture(request, latents)
        width, height = request.final_size
        pixels = request.frames * width * height
        yield self._stage("save", latents, pixels, pixels / ENCODED, SAVING.removeprefix("save "))

    def _text(self, texts: Sequence[str], features: int) -> Stage:
        network = self._network("text_encoder")
        config = TextEncoderConfig.from_dict(network.config)
        tokens = [_most_tokens(text) for text in texts]
        peak = max(costs.text_peak(config, n, self._arithmetic(network)) for n in tokens)
        states = sum(tokens) * config.hidden_size * FP32
        work = sum(costs.text_flops(config, n) for n in tokens)
        seconds = max(self._computing(work), self._reading(network))
        return self._stage("text", network.streamed + peak + states + features, work, seconds, network.kind)

    def _voice(self, request: Request, features: int) -> Stage:
        network = self._network("audio_vae")
        config = AudioVAEConfig.from_dict(network.config)
        how = self._arithmetic(network)
        peak = costs.audio_peak(config, request.sounds, how, encoding=True)
        work = costs.audio_flops(config, request.sounds)
        seconds = self._computing(work / CONVOLVING)
        return self._stage("voice", network.part("encoder.") + peak + features, work, seconds, network.kind)

    def _sound(self, request: Request, latents: int) -> Stage:
        network = self._network("audio_vae")
        config = AudioVAEConfig.from_dict(network.config)
        peak = costs.audio_peak(config, request.sounds, self._arithmetic(network))
        samples = FP32 * request.sounds * math.prod(config.strides) * config.audio_channels
        work = costs.audio_flops(config, request.sounds)
        seconds = self._computing(work / CONVOLVING)
        taken = network.part("decoder.") + peak + 2 * samples + latents
        return self._stage("sound", taken, work, seconds, network.kind)

    def _image(self, sizes: list[tuple[int, int]], features: int) -> Stage:
        network = self._network("video_encoder")
        config = VideoVAEConfig.from_dict(network.config)
        places = [(height // 16, width // 16) for width, height in sizes]
        how = self._arithmetic(network)
        layers = [costs.wan_encoding(config, *place) for place in places]
        peak = max(costs.wan_encoding_peak(x, how) for x in layers)
        work = sum(costs.wan_flops(x) for x in layers)
        seconds = self._computing(work / CONVOLVING) + self._reading(network)
        return self._stage("image", peak + features, work, seconds, network.kind)

    def _picture(self, request: Request, latents: int) -> Stage:
        network = self._network("video_decoder")
        width, height = request.final_size
        place, how = (height // 16, width // 16), self._arithmetic(network)
        count = request.latent_shapes[0][0]
        if network.config["type"] == "turbo_decoder":
            turbo = TurboDecoderConfig.from_dict(network.config)
            peak = costs.turbo_peak(turbo, count, *place, how)
            work = costs.turbo_flops(turbo, count, *place)
        else:
            wan = VideoVAEConfig.from_dict(network.config)
            layers = costs.wan_decoding(wan, *place)
            peak = costs.wan_decoding_peak(layers, how)
            work = count * costs.wan_flops(layers)
        seconds = self._computing(work / CONVOLVING) + self._reading(network)
        return self._stage("picture", network.bytes + peak + 2 * latents, work, seconds, network.kind)

    def _denoising(
        self, stage: str, component: str, request: Request, low_ram: bool | None, features: int
    ) -> Stage:
        if low_ram is not None:
            return self._steps(stage, component, request, low_ram, features)
        resident = self._steps(stage, component, request, False, features)
        if in_all(resident.bytes) <= self.machine.usable:
            return resident
        return self._steps(stage, component, request, True, features)

    def _steps(self, stage: str, component: str, request: Request, streamed: bool, features: int) -> Stage:
        network = self._network(component)
        config = TransformerConfig.from_dict(network.config)
        how, work_at_once = self._arithmetic(network), self.machine.work(streamed)
        base = stage == "denoise"
        size = (request.width, request.height) if base else request.final_size
        steps = request.steps if base else request.upscale_steps
        frames = request.latent_shapes[0][0]
        video = frames * (size[1] // 16 // PATCH) * (size[0] // 16 // PATCH)
        texts = [request.prompt, *([request.avoided[stage]] if stage in request.avoided else [])]
        passes = [Tokens(video, request.sounds, _most_tokens(text), frames) for text in texts]
        peak = max(costs.transformer_peak(config, tokens, work_at_once, how) for tokens in passes)
        angles = sum(2 * FP32 * tokens.all * 3 * config.rope_bands for tokens in passes)
        held = 7 * self._latents(request, size)  # the solver's states and estimates
        work = steps * sum(costs.transformer_flops(config, tokens) for tokens in passes)
        reading = self._reading(network) * (steps * len(passes) if streamed else 1)
        computing = self._computing(work)
        seconds = max(computing, reading) if streamed else computing + reading
        taken = (network.streamed if streamed else network.bytes) + peak + angles + held + features
        kind = f"{network.kind}{' streamed' if streamed else ''}"
        elements = config.hidden_size * max(tokens.all for tokens in passes)
        return replace(self._stage(stage, taken, work, seconds, kind), streamed=streamed, elements=elements)

    def _stage(self, name: str, taken: float, work: float, seconds: float, kind: str) -> Stage:
        kind = f"{name} {kind}"
        known = self._expected(kind, work)
        return Stage(name, int(taken), seconds if known is None else known, work, kind)

    def _expected(self, kind: str, work: float) -> float | None:
        return timings.expected(self.timings, kind, work)

    @cached_property
    def _transformer(self) -> TransformerConfig:
        return TransformerConfig.from_dict(self._network("transformer").config)

    def _latents(self, request: Request, size: tuple[int, int]) -> int:
        config = self._transformer
        cells = request.latent_shapes[0][0] * (size[0] // 16) * (size[1] // 16)
        return FP32 * (cells * config.video_channels // PATCH**2 + request.sounds * config.audio_channels)

    def _network(self, component: str) -> Network:
        if component not in self.networks:
            folder = self.folder / component
            config = weights.read_json(folder / "config.json")
            computes = component == "transformer" or component.startswith("upscaler")
            types = TYPES.get(component, ["transformer"] if computes else [component])
            try:
                if config.get("type") not in types:
                    raise ModelError(f"its config.json is of another network, {config.get('type')!r}.")
                sizes = weights.sizes(config, self.dtype if computes else None)
            except ModelError as error:
                raise ModelError(f"{folder} cannot be used: {error}") from error
            self.networks[component] = Network(config, sizes)
        return self.networks[component]

    def _arithmetic(self, network: Network) -> Arithmetic:
        computes = network.config["type"] == "transformer"
        dtype = (self.dtype if computes else None) or DTYPES[network.config.get("dtype", "float32")]
        return Arithmetic(dtype.size, bool(network.config.get("quantization")), self.machine.backend == "cpu")

    def _computing(self, flops: float) -> float:
        return flops / (self.machine.chip.tflops * 1e12)

    def _reading(self, network: Network) -> float:
        return network.bytes / (self.machine.chip.disk * GB)


def _most_tokens(text: str) -> int:
    """About how many tokens a prompt has, rather too many."""
    return min(len(text.encode()) // 3 + 2, MAX_TOKENS)


def in_all(peak: int) -> int:
    """Bytes of memory behind a peak of MLX's arrays: with what MLX keeps of freed memory, and the process."""
    return peak + min(peak, CACHE_BYTES) + PROCESS
