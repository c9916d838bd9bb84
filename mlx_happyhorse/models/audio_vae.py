"""Oobleck audio autoencoder of Stable Audio Open: 51.2 kHz stereo ↔ 25 latents a second."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .config import Config


@dataclass
class AudioVAEConfig(Config):
    channels: int = 128
    c_mults: tuple[int, ...] = (1, 2, 4, 8, 16)
    strides: tuple[int, ...] = (2, 4, 4, 8, 8)
    latent_dim: int = 64
    audio_channels: int = 2
    window: int = 725  # latents encoded at once, 29 s

    @property
    def widths(self) -> list[int]:
        return [m * self.channels for m in (1, *self.c_mults)]


class Snake(nn.Module):
    """x + sin²(αx)/β with α and β learned as logarithms (BigVGAN, arXiv 2206.04658)."""

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
    """Transposed convolution whose kernel is twice its stride, as one matmul and an overlap-add."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.weight = mx.zeros((in_channels, 2 * stride, out_channels))
        self.bias = mx.zeros(out_channels)

    def __call__(self, x: mx.array) -> mx.array:
        batch, length, channels = x.shape
        s = self.stride
        y = (x @ self.weight.reshape(channels, -1)).reshape(batch, length, 2, s, -1)
        y = mx.pad(y[:, :, 0], [(0, 0), (0, 1), (0, 0), (0, 0)]) + mx.pad(
            y[:, :, 1], [(0, 0), (1, 0), (0, 0), (0, 0)]
        )
        trim = math.ceil(s / 2)
        return y.reshape(batch, (length + 1) * s, -1)[:, trim : (length + 1) * s - trim] + self.bias


class ResidualUnit(nn.Module):
    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.layers = [
            Snake(channels),
            nn.Conv1d(channels, channels, 7, padding=3 * dilation, dilation=dilation),
            Snake(channels),
            nn.Conv1d(channels, channels, 1),
        ]

    def __call__(self, x: mx.array) -> mx.array:
        return x + _chain(self.layers, x)


def _chain(layers: Iterable[nn.Module], x: mx.array) -> mx.array:
    for layer in layers:
        x = layer(x)
    return x


def _residual_units(channels: int) -> list[nn.Module]:
    return [ResidualUnit(channels, dilation) for dilation in (1, 3, 9)]


def _down_block(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    down = nn.Conv1d(in_channels, out_channels, 2 * stride, stride, padding=math.ceil(stride / 2))
    return nn.Sequential(*_residual_units(in_channels), Snake(in_channels), down)


def _up_block(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    up = UpsampleConv1d(in_channels, out_channels, stride)
    return nn.Sequential(Snake(in_channels), up, *_residual_units(out_channels))


def _cross_fade(before: mx.array, after: mx.array, overlap: int) -> mx.array:
    """Two runs of features as one, the end of the first fading into the start of the second."""
    weight = (mx.arange(overlap) / overlap)[:, None]
    faded = (1 - weight) * before[-overlap:] + weight * after[:overlap]
    return mx.concatenate([before[:-overlap], faded, after[overlap:]])


class AudioVAE(nn.Module):
    def __init__(self, config: AudioVAEConfig):
        super().__init__()
        self.config = config
        widths, strides = config.widths, config.strides
        levels = range(len(strides))
        self.encoder = nn.Sequential(
            nn.Conv1d(config.audio_channels, widths[0], 7, padding=3),
            *(_down_block(widths[i], widths[i + 1], strides[i]) for i in levels),
            Snake(widths[-1]),
            nn.Conv1d(widths[-1], 2 * config.latent_dim, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv1d(config.latent_dim, widths[-1], 7, padding=3),
            *(_up_block(widths[i + 1], widths[i], strides[i]) for i in reversed(levels)),
            Snake(widths[0]),
            nn.Conv1d(widths[0], config.audio_channels, 7, padding=3, bias=False),
        )

    def encode(self, samples: mx.array) -> tuple[mx.array, mx.array]:
        """Samples (n, 2) at 51.2 kHz → mean and raw scale of the latent, both (n // 2048, 64).

        Beyond 29 s in windows of that length, which overlap by half and are cross-faded. The reference cuts
        them 362.5 latents apart and lays them 363 apart, so that the sound drifts; here both are 363."""
        hop = math.prod(self.config.strides)
        length, window = len(samples) // hop, self.config.window
        step = window - window // 2
        features = self._run(self.encoder, samples[: window * hop] if length > window else samples)
        for start in range(step, length - window + step, step):
            piece = samples[start * hop : (start + window) * hop]
            piece = mx.pad(piece, [(0, window * hop - len(piece)), (0, 0)])
            features = _cross_fade(features, self._run(self.encoder, piece), window - step)
        mean, scale = mx.split(features[:length], 2, axis=-1)
        return mean, scale

    @staticmethod
    def sample(mean: mx.array, scale: mx.array, noise: mx.array) -> mx.array:
        """One draw of the latent, given standard normal noise of its shape."""
        return mean + (nn.softplus(scale) + 1e-4) * noise

    def decode(self, latents: mx.array) -> mx.array:
        """Latents (n, 64) → samples (n · 2048, 2) at 51.2 kHz; not clipped."""
        return self._run(self.decoder, latents)

    def _run(self, network: nn.Sequential, x: mx.array) -> mx.array:
        x = x[None].astype(mx.float32)
        for layer in network.layers:
            x = layer(x)
            mx.eval(x)
        return x[0]
