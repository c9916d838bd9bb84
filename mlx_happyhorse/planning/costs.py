"""What the networks take: bytes at their peak beside their weights, and floating point operations.

The bytes follow from which arrays are alive at the worst moment, given where the networks evaluate what they
have. A processor unrolls convolutions and writes attention's scores down, which Metal's kernels do not.
`benchmarks/planned.py` holds them against measured peaks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from ..models import audio_vae
from ..models.audio_vae import AudioVAEConfig
from ..models.matmul import EXPANDED, MANY, WIDE, Work
from ..models.text_encoder import TextEncoderConfig
from ..models.transformer import TransformerConfig, local_windows
from ..models.turbo_decoder import TurboDecoderConfig
from ..models.video_vae import VideoVAEConfig
from ..runtime.memory import WINOGRAD_BYTES

FP32 = 4


class Tokens(NamedTuple):
    """Of a sequence; `frames` are the latent frames that the video's are made of."""

    video: int
    audio: int
    text: int
    frames: int

    @property
    def all(self) -> int:
        return self.video + self.audio + self.text


@dataclass(frozen=True)
class Arithmetic:
    """How products are computed: `bytes` of a number, whether matrices are `quantized`, and whether a
    processor does it, which needs more memory for the same."""

    bytes: int
    quantized: bool
    unrolled: bool

    def expanded(self, elements: int) -> int:
        """For dequantizing a matrix, a part at a time."""
        if not self.quantized:
            return 0
        return min(elements, EXPANDED) * ((8 if self.bytes == FP32 else 10) if self.unrolled else self.bytes)

    def turned(self, rows: int, outputs: int, inputs: int) -> int:
        """For a copy of a wide matrix that lies the other way."""
        if inputs < WIDE or rows < MANY:
            return 0
        return self.bytes * (min(outputs * inputs, EXPANDED) if self.quantized else outputs * inputs)

    def product(self, rows: int, outputs: int, inputs: int) -> int:
        """For a product's result, which is put together from parts where the matrix is dequantized so."""
        parts = self.quantized and outputs * inputs > EXPANDED
        return self.bytes * rows * outputs * (2 if parts else 1)


def transformer_peak(config: TransformerConfig, tokens: Tokens, work: Work, how: Arithmetic) -> int:
    """One forward pass."""
    hidden, inner = config.hidden_size, config.num_heads * config.head_dim
    kv, b = config.num_kv_heads * config.head_dim, how.bytes
    stream = FP32 * tokens.all * hidden
    gates = FP32 * tokens.all * config.num_heads
    queries, keys = b * tokens.all * inner, 2 * b * tokens.all * kv
    peaks = [stream + FP32 * tokens.video * (config.video_channels + hidden)]
    for rows, gelu in _pieces(config, tokens, work):
        wide = config.gelu_size if gelu else 2 * config.swiglu_size
        half = wide if gelu else wide // 2
        turned = inner * (15 if b == FP32 else 21)
        qkv = how.product(rows, inner + 2 * kv, hidden) + how.expanded(hidden * (inner + 2 * kv))
        project = rows * b * hidden + max(qkv, rows * (b * (inner + 2 * kv) + turned))
        scores = attention_peak(config, tokens, rows, work, how) + rows * b * inner
        norm = rows * hidden * (2 * FP32 if b == FP32 else 2 * FP32 + b)
        acts = rows * (b * wide + (0 if gelu and b == FP32 else FP32 * half) + (0 if b == FP32 else b * half))
        up = max(how.product(rows, wide, hidden) + how.expanded(hidden * wide), acts)
        down = rows * b * half + how.product(rows, hidden, half) + how.expanded(hidden * half)
        down += how.turned(rows, hidden, half)
        merge = rows * (FP32 * inner + b * hidden + (FP32 * hidden + b * inner if b != FP32 else 0))
        mlp = rows * FP32 * hidden + max(norm + up, down)
        before = stream + gates + queries + keys
        peaks += [before + project, before + scores, before + rows * b * inner + merge]
        peaks.append(before - rows * b * inner + mlp)  # these rows' queries are done with
    return max(peaks)


def _pieces(config: TransformerConfig, tokens: Tokens, work: Work) -> set[tuple[int, bool]]:
    """The largest pieces of rows that pass an expert at once, and whether it has a GELU."""
    found = set()
    for i in range(config.num_layers):
        span = max(tokens[:3]) if i in config.modality_layers else tokens.all
        found.add(
            (math.ceil(span / math.ceil(span / work.most_rows(config.row_flops(i)))), i in config.gelu_layers)
        )
    return found


def attention_peak(config: TransformerConfig, tokens: Tokens, rows: int, work: Work, how: Arithmetic) -> int:
    """What attention needs for some rows of queries, beside these and all keys and values."""
    inner = config.num_heads * config.head_dim
    most = min(rows, work.most_rows(4 * tokens.all * inner))
    window = 0
    if config.local_layers:
        seen = max(stop - start for *_, start, stop in local_windows(tokens.frames, config.local_frames))
        others = tokens.all - tokens.video
        rows_seen = seen * tokens.video // tokens.frames + others
        window = 2 * how.bytes * rows_seen * config.num_kv_heads * config.head_dim
    scores = how.bytes * config.num_heads * most * tokens.all if how.unrolled else 0
    if how.unrolled and config.num_kv_heads > 1:  # as measured: copies of all three
        scores += (
            3 * how.bytes * config.head_dim * (most * config.num_heads + tokens.all * config.num_kv_heads)
        )
    return window + scores + how.bytes * inner * (most + (rows if most < rows else 0))


def transformer_flops(config: TransformerConfig, tokens: Tokens) -> float:
    """One forward pass."""
    inner, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    total = 0.0
    for i in range(config.num_layers):
        mlp = 2 * config.gelu_size if i in config.gelu_layers else 3 * config.swiglu_size
        row = config.hidden_size * (2 * inner + 2 * kv + mlp)
        pairs = tokens.all**2
        if i in config.local_layers:
            pairs = _local_pairs(config, tokens)
        total += 2 * tokens.all * row + 4 * pairs * inner
    embedded = tokens.video * config.video_channels * 2 + tokens.audio * config.audio_channels * 2
    return total + 2.0 * config.hidden_size * (embedded + tokens.text * config.text_channels)


def _local_pairs(config: TransformerConfig, tokens: Tokens) -> int:
    per_frame, others = tokens.video // tokens.frames, tokens.all - tokens.video
    pairs = others * tokens.all
    for first, last, start, stop in local_windows(tokens.frames, config.local_frames):
        pairs += (last - first) * per_frame * ((stop - start) * per_frame + others)
    return pairs


def text_peak(config: TextEncoderConfig, tokens: int, how: Arithmetic) -> int:
    """One block over a prompt."""
    hidden, wide, b = config.hidden_size, config.intermediate_size, how.bytes
    inner = config.head_dim * (config.num_attention_heads + 2 * config.num_key_value_heads)
    attention = tokens * (inner * b * 4 + b * config.num_attention_heads * tokens)
    mlp = tokens * wide * b * 4 + how.expanded(hidden * wide)
    return tokens * hidden * b * 2 + max(attention, mlp, tokens * hidden * FP32 * 4)


def text_flops(config: TextEncoderConfig, tokens: int) -> float:
    inner = config.head_dim * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    row = config.hidden_size * (inner + 3 * config.intermediate_size)
    scores = 2 * tokens * config.num_attention_heads * config.head_dim
    return 2.0 * tokens * config.num_hidden_layers * (row + scores)


class Convolution(NamedTuple):
    """`pixels` of each of `frames` in and out, `taps` of its kernel in space and in time."""

    pixels: int
    frames: int
    inputs: int
    outputs: int
    taps: int = 9
    depth: int = 3

    def peak(self, how: Arithmetic) -> int:
        """Its input, put together with the frames before, and its output; unrolled, the copies too; on a GPU
        an output for each frame of the kernel, and what Winograd's method is allowed."""
        taken = self.pixels * (self.frames + self.depth - 1) * self.inputs
        unrolled = taken + self.pixels * self.frames * self.inputs * self.taps * self.depth
        made = self.pixels * self.frames * self.outputs
        if how.unrolled:
            return FP32 * (taken + 2 * made + unrolled)
        transformed = 2 * self.pixels * self.frames * (self.inputs + self.outputs)
        return FP32 * (taken + (2 + self.depth) * made) + min(FP32 * transformed, WINOGRAD_BYTES)

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs * self.taps * self.depth

    @property
    def flops(self) -> float:
        """For one frame."""
        return 2.0 * self.pixels * self.weights

    @property
    def remembered(self) -> int:
        """Bytes of the two frames that it takes from one chunk to the next, where it looks back."""
        return 2 * FP32 * self.pixels * self.inputs if self.depth > 1 else 0


def turbo_convolutions(
    config: TurboDecoderConfig, latents: int, height: int, width: int
) -> list[tuple[Convolution, int]]:
    """All of them, each for a frame, with how many frames they make of the longest window; sizes are of the
    latents."""
    length = config.first_window if latents <= config.first_window else config.window + 2
    scale, times = 1, 1
    widths = (*config.widths, config.widths[-1])
    found: list[tuple[Convolution, int]] = []

    def add(inputs: int, outputs: int, taps: int = 9, depth: int = 3, enlarged: int = 1) -> None:
        pixels = height * width * scale**2 * enlarged
        found.append((Convolution(pixels, 1, inputs, outputs, taps, depth), length * times))

    add(config.latent_channels, widths[-1])
    for _ in range(2 * config.layers[-1]):
        add(widths[-1], widths[-1])
    for level in reversed(range(len(config.widths))):
        inputs, outputs = widths[level + 1], widths[level]
        if inputs != outputs:
            add(inputs, outputs)
            add(outputs, outputs)
        if config.upsample[level]:
            if not config.spatial_only[level]:
                add(outputs, 2 * outputs, taps=1)
                times *= 2
            add(outputs, outputs, depth=1, enlarged=4)
            scale *= 2
        for _ in range(2 * config.layers[level]):
            add(outputs, outputs)
    add(widths[0], 12)
    return found


def turbo_peak(config: TurboDecoderConfig, latents: int, height: int, width: int, how: Arithmetic) -> int:
    """Of a long clip: the frames that every layer remembers, and the largest convolution, whose three frames
    are normalised and activated first, beside one that skips them."""
    layers = [layer for layer, _ in turbo_convolutions(config, latents, height, width)]
    at_work = max(layer.peak(how) + 7 * FP32 * layer.pixels * layer.inputs for layer in layers)
    return sum(layer.remembered for layer in layers) + at_work


def turbo_flops(config: TurboDecoderConfig, latents: int, height: int, width: int) -> float:
    windows = math.ceil(latents / config.window)
    return windows * sum(x.flops * frames for x, frames in turbo_convolutions(config, latents, height, width))


def wan_decoding(config: VideoVAEConfig, height: int, width: int) -> list[Convolution]:
    """The decoder's convolutions over a latent frame; sizes are of the latents."""
    widths = [config.width * m for m in (config.multipliers[-1], *reversed(config.multipliers))]
    pixels, frames = height * width, 1
    found = [Convolution(pixels, 1, config.latent_channels, widths[0])]
    found += [Convolution(pixels, 1, widths[0], widths[0])] * 4
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        found.append(Convolution(pixels, frames, inputs, outputs))
        found += [Convolution(pixels, frames, outputs, outputs)] * (2 * config.residual_blocks + 1)
        if i < len(config.multipliers) - 1:
            if config.temporal[::-1][i]:
                found.append(Convolution(pixels, frames, outputs, 2 * outputs, taps=1))
                frames *= 2
            pixels *= 4
            found.append(Convolution(pixels, frames, outputs, outputs, depth=1))
    return [*found, Convolution(pixels, frames, widths[-1], 12)]


def wan_encoding(config: VideoVAEConfig, height: int, width: int) -> list[Convolution]:
    """The encoder's convolutions over a first frame; sizes are of the latents."""
    widths = [config.width * m for m in (1, *config.multipliers)]
    pixels = height * width * 4 ** (len(config.multipliers) - 1)
    found = [Convolution(pixels, 1, 12, widths[0])]
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        found.append(Convolution(pixels, 1, inputs, outputs))
        found += [Convolution(pixels, 1, outputs, outputs)] * (2 * config.residual_blocks - 1)
        if i < len(config.multipliers) - 1:
            pixels //= 4
            found.append(Convolution(pixels, 1, outputs, outputs, depth=1))
    found += [Convolution(pixels, 1, widths[-1], widths[-1])] * 4
    return [*found, Convolution(pixels, 1, widths[-1], 2 * config.latent_channels)]


def wan_decoding_peak(layers: list[Convolution], how: Arithmetic) -> int:
    """What every convolution remembers of the frames before, what goes around it, and the largest at work."""
    around = max(2 * FP32 * x.pixels * x.frames * x.inputs for x in layers)
    return sum(x.remembered for x in layers) + around + max(layer.peak(how) for layer in layers)


def wan_encoding_peak(layers: list[Convolution], how: Arithmetic) -> int:
    """The same of a single frame, and with the weights, which are read one by one as they are needed."""
    held, peaks = 0, []
    for x in layers:
        held += x.remembered + FP32 * x.weights
        peaks.append(held + 2 * FP32 * x.pixels * x.inputs + x.peak(how))
    return max(peaks)


def wan_flops(layers: list[Convolution]) -> float:
    return sum(x.flops * x.frames for x in layers)


def audio_peak(config: AudioVAEConfig, latents: int, how: Arithmetic, encoding: bool = False) -> int:
    """A window of latents, or of samples for as many: the widest level, a layer at a time."""
    window = min(latents, config.window if encoding else audio_vae.DECODED + 2 * config.reach)
    rate, largest = math.prod(config.strides), 0
    for narrow, stride in zip(config.widths[:-1], config.strides, strict=True):  # from the samples inwards
        largest = max(largest, FP32 * window * rate * narrow)
        rate //= stride
    return int(largest * ((10.3 if encoding else 11.5) if how.unrolled else 5))


def audio_flops(config: AudioVAEConfig, latents: int) -> float:
    total, rate = 0.0, 1.0
    kernel, units = audio_vae.KERNEL, len(audio_vae.DILATIONS)
    for i in reversed(range(len(config.strides))):
        wide, narrow, stride = config.widths[i + 1], config.widths[i], config.strides[i]
        total += 2 * rate * wide * narrow * 2 * stride
        rate *= stride
        total += 2 * rate * narrow**2 * (kernel + 1) * units
    return latents * total
