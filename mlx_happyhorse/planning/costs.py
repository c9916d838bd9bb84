"""The cost of each network: bytes at its peak, beside its weights, and floating point operations.

The bytes are those of the arrays that are alive at the worst moment, given where the networks evaluate. A CPU
unrolls convolutions and materialises attention scores; Metal's kernels do neither. `benchmarks/planned.py`
compares them with measured peaks; factors that are called measured were fitted there, on a CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ..models import audio_vae
from ..models.audio_vae import AudioVAEConfig
from ..models.convolution import Convolution
from ..models.matmul import DEQUANTIZED, MANY, WIDE, Work
from ..models.text_encoder import TextEncoderConfig
from ..models.transformer import TransformerConfig, local_windows
from ..models.turbo_decoder import TurboDecoderConfig
from ..models.turbo_decoder import convolutions as turbo_convolutions
from ..runtime.memory import WINOGRAD_BYTES

FP32 = 4
# Bytes per element of q while it is normalised and rotated, beside q itself, by bytes of its dtype: measured.
ROTATION_BYTES = {4: 15, 2: 21}
# Arrays of the audio VAE's widest level that are alive together. A CPU unrolls its kernel of 7: measured, for
# the encoder and the decoder. On a GPU: a unit's input, activation, output, skip and the next activation.
CPU_AUDIO_ENCODER, CPU_AUDIO_DECODER, GPU_AUDIO = 10.3, 11.5, 5
# Frames around the Turbo decoder's largest convolution: three normalised, three activated, one skipped.
TURBO_FRAMES = 7
# Copies of a text encoder's block: the projections before and after rotation; gate, up and their products;
# an fp32 norm's input, square and result.
TEXT_COPIES = 4


class Tokens(NamedTuple):
    """A sequence's tokens; `frames` are the latent frames of its video tokens."""

    video: int
    audio: int
    text: int
    frames: int

    @property
    def all(self) -> int:
        return self.video + self.audio + self.text


@dataclass(frozen=True)
class Arithmetic:
    """How products are computed: `bytes` per number, whether weights are `quantized`, and whether it happens
    on a CPU, which needs more memory for the same (`unrolled`)."""

    bytes: int
    quantized: bool
    unrolled: bool

    def dequantized(self, elements: int) -> int:
        """Return the bytes of the part of a matrix that is dequantized at a time."""
        if not self.quantized:
            return 0
        # A CPU dequantizes in fp32: the result and a copy, for bf16 its cast too.
        each = (8 if self.bytes == FP32 else 10) if self.unrolled else self.bytes
        return min(elements, DEQUANTIZED) * each

    def transposed(self, rows: int, outputs: int, inputs: int) -> int:
        """Return the bytes of the transposed copy of a wide matrix."""
        if inputs < WIDE or rows < MANY:
            return 0
        return self.bytes * (min(outputs * inputs, DEQUANTIZED) if self.quantized else outputs * inputs)

    def product(self, rows: int, outputs: int, inputs: int) -> int:
        """Return the bytes of a product, twice where it is concatenated from parts."""
        parts = self.quantized and outputs * inputs > DEQUANTIZED
        return self.bytes * rows * outputs * (2 if parts else 1)


def transformer_peak(config: TransformerConfig, tokens: Tokens, work: Work, how: Arithmetic) -> int:
    """Return the peak of one forward pass."""
    hidden, inner = config.hidden_size, config.num_heads * config.head_dim
    kv, b = config.num_kv_heads * config.head_dim, how.bytes
    # Alive through a layer: the residual stream, gates, queries, keys and values of all tokens.
    stream = FP32 * tokens.all * hidden
    gates = FP32 * tokens.all * config.num_heads
    queries, keys = b * tokens.all * inner, 2 * b * tokens.all * kv
    layer = stream + gates + queries + keys
    # The embedders: the packed video and its embedding beside the stream that they are concatenated into.
    peaks = [stream + FP32 * tokens.video * (config.video_channels + hidden)]
    for rows, gelu in _chunks(config, tokens, work):
        wide = config.gelu_size if gelu else 2 * config.swiglu_size
        half = wide if gelu else wide // 2
        # Projection: the normalised input, then q, k and v, then their rotation.
        qkv = how.product(rows, inner + 2 * kv, hidden) + how.dequantized(hidden * (inner + 2 * kv))
        rotation = rows * (b * (inner + 2 * kv) + inner * ROTATION_BYTES[b])
        peaks.append(layer + rows * b * hidden + max(qkv, rotation))
        # Attention, and the gated heads on their way through the output projection.
        heads = rows * b * inner
        peaks.append(layer + attention_peak(config, tokens, rows, work, how) + heads)
        merge = rows * (FP32 * inner + b * hidden + (FP32 * hidden + b * inner if b != FP32 else 0))
        peaks.append(layer + heads + merge)
        # MLP: norm and first matrix, activation, second matrix. The chunk's own queries are freed by then.
        norm = rows * hidden * (2 * FP32 if b == FP32 else 2 * FP32 + b)
        acts = rows * (b * wide + (0 if gelu and b == FP32 else FP32 * half) + (0 if b == FP32 else b * half))
        up = max(how.product(rows, wide, hidden) + how.dequantized(hidden * wide), acts)
        down = rows * b * half + how.product(rows, hidden, half) + how.dequantized(hidden * half)
        down += how.transposed(rows, hidden, half)
        peaks.append(layer - heads + rows * FP32 * hidden + max(norm + up, down))
    return max(peaks)


def _chunks(config: TransformerConfig, tokens: Tokens, work: Work) -> set[tuple[int, bool]]:
    """Return the largest chunk of rows of every kind of layer, and whether that has a GELU."""
    found = set()
    for i in range(config.num_layers):
        span = max(tokens[:3]) if i in config.modality_layers else tokens.all
        chunks = math.ceil(span / work.max_rows(config.row_flops(i)))
        found.add((math.ceil(span / chunks), i in config.gelu_layers))
    return found


def attention_peak(config: TransformerConfig, tokens: Tokens, rows: int, work: Work, how: Arithmetic) -> int:
    """Return what attention takes for a chunk of queries, beside these and all keys and values."""
    inner = config.num_heads * config.head_dim
    most = min(rows, work.max_rows(4 * tokens.all * inner))
    window = 0
    if config.local_layers:  # the keys and values that a window sees are copied
        seen = max(stop - start for *_, start, stop in local_windows(tokens.frames, config.local_frames))
        rows_seen = seen * tokens.video // tokens.frames + tokens.audio + tokens.text
        window = 2 * how.bytes * rows_seen * config.num_kv_heads * config.head_dim
    scores = 0
    if how.unrolled:
        scores = how.bytes * config.num_heads * most * tokens.all
        if config.num_kv_heads > 1:  # measured: copies of q, k and v
            heads = most * config.num_heads + tokens.all * config.num_kv_heads
            scores += 3 * how.bytes * config.head_dim * heads
    return window + scores + how.bytes * inner * (most + (rows if most < rows else 0))


def transformer_flops(config: TransformerConfig, tokens: Tokens) -> float:
    """Return the operations of one forward pass."""
    inner, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    total = 0.0
    for i in range(config.num_layers):
        mlp = 2 * config.gelu_size if i in config.gelu_layers else 3 * config.swiglu_size
        row = config.hidden_size * (2 * inner + 2 * kv + mlp)
        pairs = _local_pairs(config, tokens) if i in config.local_layers else tokens.all**2
        total += 2 * tokens.all * row + 4 * pairs * inner
    embedded = tokens.video * config.video_channels * 2 + tokens.audio * config.audio_channels * 2
    return total + 2.0 * config.hidden_size * (embedded + tokens.text * config.text_channels)


def _local_pairs(config: TransformerConfig, tokens: Tokens) -> int:
    """Return the pairs of a query and a key in a layer with local attention."""
    per_frame, others = tokens.video // tokens.frames, tokens.all - tokens.video
    pairs = others * tokens.all
    for first, last, start, stop in local_windows(tokens.frames, config.local_frames):
        pairs += (last - first) * per_frame * ((stop - start) * per_frame + others)
    return pairs


def text_peak(config: TextEncoderConfig, tokens: int, how: Arithmetic) -> int:
    """Return the peak of one block over a prompt."""
    hidden, wide, b = config.hidden_size, config.intermediate_size, how.bytes
    inner = config.head_dim * (config.num_attention_heads + 2 * config.num_key_value_heads)
    attention = tokens * (inner * b * TEXT_COPIES + b * config.num_attention_heads * tokens)
    mlp = tokens * wide * b * TEXT_COPIES + how.dequantized(hidden * wide)
    norm = tokens * hidden * FP32 * TEXT_COPIES
    return tokens * hidden * b * 2 + max(attention, mlp, norm)


def text_flops(config: TextEncoderConfig, tokens: int) -> float:
    inner = config.head_dim * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    row = config.hidden_size * (inner + 3 * config.intermediate_size)
    scores = 2 * tokens * config.num_attention_heads * config.head_dim
    return 2.0 * tokens * config.num_hidden_layers * (row + scores)


def convolution_peak(conv: Convolution, how: Arithmetic) -> int:
    """Return the peak of one convolution, with its input concatenated to the past frames.

    A CPU holds the unrolled input and two copies of the output; a GPU a 2-D output for each frame of the
    kernel, their sum, and what Winograd's method may take."""
    taken = conv.pixels * (conv.frames + conv.depth - 1) * conv.inputs
    made = conv.pixels * conv.frames * conv.outputs
    if how.unrolled:
        unrolled = taken + conv.pixels * conv.frames * conv.inputs * conv.taps * conv.depth
        return FP32 * (taken + 2 * made + unrolled)
    transformed = 2 * conv.pixels * conv.frames * (conv.inputs + conv.outputs)
    return FP32 * (taken + (2 + conv.depth) * made) + min(FP32 * transformed, WINOGRAD_BYTES)


def turbo_peak(config: TurboDecoderConfig, latents: int, height: int, width: int, how: Arithmetic) -> int:
    """Return the peak of a long clip: the cached frames of all layers, and the largest convolution."""
    layers = [layer for layer, _ in turbo_convolutions(config, latents, height, width)]
    largest = max(convolution_peak(x, how) + TURBO_FRAMES * FP32 * x.pixels * x.inputs for x in layers)
    return sum(FP32 * x.cached for x in layers) + largest


def turbo_flops(config: TurboDecoderConfig, latents: int, height: int, width: int) -> float:
    windows = math.ceil(latents / config.window)
    return windows * sum(x.flops * frames for x, frames in turbo_convolutions(config, latents, height, width))


def wan_decoding_peak(layers: list[Convolution], how: Arithmetic) -> int:
    """Return the cached frames of all layers, two arrays around the widest one, and the largest at work."""
    around = max(2 * FP32 * x.pixels * x.frames * x.inputs for x in layers)
    return sum(FP32 * x.cached for x in layers) + around + max(convolution_peak(x, how) for x in layers)


def wan_encoding_peak(layers: list[Convolution], how: Arithmetic) -> int:
    """Return the same for a single frame, with the weights, which are read one by one as they are used."""
    held, peaks = 0, []
    for x in layers:
        held += FP32 * (x.cached + x.weights)
        peaks.append(held + 2 * FP32 * x.pixels * x.inputs + convolution_peak(x, how))
    return max(peaks)


def wan_flops(layers: list[Convolution]) -> float:
    return sum(x.flops * x.frames for x in layers)


def audio_peak(config: AudioVAEConfig, latents: int, how: Arithmetic, encoding: bool = False) -> int:
    """Return the peak of one window, of latents or of the samples for as many: at the widest level."""
    window = min(latents, config.window if encoding else audio_vae.DECODE_WINDOW + 2 * config.reach)
    rate, widest = math.prod(config.strides), 0
    for narrow, stride in zip(config.widths[:-1], config.strides, strict=True):  # from the samples inwards
        widest = max(widest, FP32 * window * rate * narrow)
        rate //= stride
    on_cpu = CPU_AUDIO_ENCODER if encoding else CPU_AUDIO_DECODER
    return int(widest * (on_cpu if how.unrolled else GPU_AUDIO))


def audio_flops(config: AudioVAEConfig, latents: int) -> float:
    """Return the operations of one direction: a level's strided convolution, then its residual units."""
    total, rate = 0.0, 1.0
    kernel, units = audio_vae.KERNEL, len(audio_vae.DILATIONS)
    for i in reversed(range(len(config.strides))):
        wide, narrow, stride = config.widths[i + 1], config.widths[i], config.strides[i]
        total += 2 * rate * wide * narrow * 2 * stride
        rate *= stride
        total += 2 * rate * narrow**2 * (kernel + 1) * units
    return latents * total
