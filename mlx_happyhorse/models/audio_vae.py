"""Oobleck audio autoencoder of Stable Audio Open: 51.2 kHz stereo ↔ 25 latents a second."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .blocks import OnBlock, no_block
from .config import Config

KERNEL, DILATIONS = 7, (1, 3, 9)
DECODE_WINDOW = 100  # latents decoded at a time, 4 s: bounds peak memory


@dataclass
class AudioVAEConfig(Config):
    channels: int = 128
    c_mults: tuple[int, ...] = (1, 2, 4, 8, 16)
    strides: tuple[int, ...] = (2, 4, 4, 8, 8)
    latent_dim: int = 64
    audio_channels: int = 2
    window: int = 725  # latents encoded at a time, 29 s, as in the reference

    @property
    def widths(self) -> list[int]:
        return [m * self.channels for m in (1, *self.c_mults)]

    @property
    def reach(self) -> int:
        """Return how many latents to either side influence a decoded sample."""
        padding = KERNEL // 2
        reach, rate = float(padding), 1  # the first convolution; samples per latent
        for stride in reversed(self.strides):
            reach += 1 / rate  # the kernel of the upsampling is two strides long
            rate *= stride
            reach += padding * sum(DILATIONS) / rate
        return math.ceil(reach + padding / rate)


class Snake(nn.Module):
    """The activation x + sin²(αx)/β, with α and β learned as logarithms (BigVGAN, arXiv 2206.04658)."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = mx.zeros(channels)
        self.beta = mx.zeros(channels)

    def __call__(self, x: mx.array) -> mx.array:
        return _snake(x, mx.exp(self.alpha), mx.exp(self.beta))


@mx.compile
def _snake(x: mx.array, alpha: mx.array, beta: mx.array) -> mx.array:
    return x + mx.square(mx.sin(x * alpha)) / (beta + 1e-9)


class UpsampleConv1d(nn.Module):
    """Transposed convolution whose kernel is twice its stride, as one matmul and an overlap-add.

    MLX's own unrolls its input, which takes 55 times as long on a CPU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.weight = mx.zeros((in_channels, 2 * stride, out_channels))
        self.bias = mx.zeros(out_channels)

    def __call__(self, x: mx.array) -> mx.array:
        batch, length, channels = x.shape
        s = self.stride
        # Each input sample contributes to two strides of the output, the second of which overlaps the next's.
        y = (x @ self.weight.reshape(channels, -1)).reshape(batch, length, 2, s, -1)
        y = mx.pad(y[:, :, 0], [(0, 0), (0, 1), (0, 0), (0, 0)]) + mx.pad(
            y[:, :, 1], [(0, 0), (1, 0), (0, 0), (0, 0)]
        )
        trim = math.ceil(s / 2)
        return y.reshape(batch, (length + 1) * s, -1)[:, trim : (length + 1) * s - trim] + self.bias


class Chain(nn.Sequential):
    """A sequence of layers that evaluates each convolution: the temporary memory of several would add up."""

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = layer(x)
            if not isinstance(layer, Snake):
                mx.eval(x)
        return x


class ResidualUnit(Chain):
    def __init__(self, channels: int, dilation: int):
        super().__init__(
            Snake(channels),
            nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2 * dilation, dilation=dilation),
            Snake(channels),
            nn.Conv1d(channels, channels, 1),
        )

    def __call__(self, x: mx.array) -> mx.array:
        return x + super().__call__(x)


def _residual_units(channels: int) -> list[nn.Module]:
    return [ResidualUnit(channels, dilation) for dilation in DILATIONS]


def _down_block(in_channels: int, out_channels: int, stride: int) -> Chain:
    down = nn.Conv1d(in_channels, out_channels, 2 * stride, stride, padding=math.ceil(stride / 2))
    return Chain(*_residual_units(in_channels), Snake(in_channels), down)


def _up_block(in_channels: int, out_channels: int, stride: int) -> Chain:
    up = UpsampleConv1d(in_channels, out_channels, stride)
    return Chain(Snake(in_channels), up, *_residual_units(out_channels))


def _cross_fade(before: mx.array, after: mx.array, overlap: int) -> mx.array:
    """Join two overlapping arrays (n, channels): the end of the first fades into the start of the second."""
    weight = (mx.arange(overlap) / overlap)[:, None]
    faded = (1 - weight) * before[-overlap:] + weight * after[:overlap]
    return mx.concatenate([before[:-overlap], faded, after[overlap:]])


class AudioVAE(nn.Module):
    """Encoder and decoder; arrays are fp32."""

    def __init__(self, config: AudioVAEConfig):
        super().__init__()
        self.config = config
        widths, strides = config.widths, config.strides
        levels = range(len(strides))
        self.encoder = Chain(
            nn.Conv1d(config.audio_channels, widths[0], 7, padding=3),
            *(_down_block(widths[i], widths[i + 1], strides[i]) for i in levels),
            Snake(widths[-1]),
            nn.Conv1d(widths[-1], 2 * config.latent_dim, 3, padding=1),
        )
        self.decoder = Chain(
            nn.Conv1d(config.latent_dim, widths[-1], 7, padding=3),
            *(_up_block(widths[i + 1], widths[i], strides[i]) for i in reversed(levels)),
            Snake(widths[0]),
            nn.Conv1d(widths[0], config.audio_channels, 7, padding=3, bias=False),
        )

    def encode(self, samples: mx.array) -> tuple[mx.array, mx.array]:
        """Encode samples (n, 2) at 51.2 kHz to mean and raw scale of the latents, both (n // 2048, 64).

        More than 29 s are encoded in windows of that length, which overlap by half and are cross-faded. The
        reference cuts windows 362.5 latents apart and places them 363 apart, so that its audio drifts; here
        both are 363."""
        hop = math.prod(self.config.strides)
        length, window = len(samples) // hop, self.config.window
        step = window - window // 2
        features = self._run(self.encoder, samples[: window * hop] if length > window else samples)
        for start in range(step, length - window + step, step):
            chunk = samples[start * hop : (start + window) * hop]
            chunk = mx.pad(chunk, [(0, window * hop - len(chunk)), (0, 0)])
            features = _cross_fade(features, self._run(self.encoder, chunk), window - step)
        mean, scale = mx.split(features[:length], 2, axis=-1)
        return mean, scale

    @staticmethod
    def sample(mean: mx.array, scale: mx.array, noise: mx.array) -> mx.array:
        """Return a sample of the latents, given standard normal noise of their shape."""
        return mean + (nn.softplus(scale) + 1e-4) * noise

    def decode(self, latents: mx.array, on_block: OnBlock = no_block) -> mx.array:
        """Decode latents (n, 64) to samples (n · 2048, 2) at 51.2 kHz, not clipped.

        Windows include as many latents to both sides as influence their samples: the result equals that of a
        single pass, and peak memory does not grow with the length. `on_block` is told the latents done."""
        hop, reach = math.prod(self.config.strides), self.config.reach
        samples = []
        for start in range(0, len(latents), DECODE_WINDOW):
            first = max(start - reach, 0)
            window = self._run(self.decoder, latents[first : start + DECODE_WINDOW + reach])
            samples.append(window[(start - first) * hop :][: DECODE_WINDOW * hop])
            mx.eval(samples[-1])
            on_block(min(start + DECODE_WINDOW, len(latents)), len(latents))
        return mx.concatenate(samples)

    def _run(self, network: Chain, x: mx.array) -> mx.array:
        return network(x[None].astype(mx.float32))[0]
