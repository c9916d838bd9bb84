"""MagiHuman's fast video decoder: Wan 2.2 latents → pixels, over sliding windows of latent frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .config import Config
from .normalization import denormalize
from .video_vae import PATCH, interleave_frames, nearest_upsample, unpatchify

OVERLAP = 4  # pixel frames decoded from one latent frame of context


@dataclass
class TurboDecoderConfig(Config):
    """Levels are listed as published: from the picture inwards."""

    latent_channels: int = 48
    widths: tuple[int, ...] = (64, 128, 256, 512)
    layers: tuple[int, ...] = (2, 2, 2, 3, 3)
    upsample: tuple[bool, ...] = (False, True, True, True)
    spatial_only: tuple[bool, ...] = (False, True, False, False)
    norm_eps: float = 1e-6
    first_window: int = 7
    window: int = 7

    def __post_init__(self) -> None:
        if min(self.first_window, self.window) < 1:
            raise ValueError("a window holds at least one frame")


class Conv3d(nn.Module):
    """Same-size convolution: zeros around the picture, the end frames repeated in time."""

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int, int] = (3, 3, 3)):
        super().__init__()
        self.weight = mx.zeros((out_channels, *kernel, in_channels))
        self.bias = mx.zeros(out_channels)

    def __call__(self, x: mx.array) -> mx.array:
        depth, height, width = self.weight.shape[1:4]
        if depth > 1:
            ends = depth // 2
            x = mx.concatenate(
                [mx.repeat(x[:, :1], ends, axis=1), x, mx.repeat(x[:, -1:], ends, axis=1)], axis=1
            )
        return mx.conv3d(x, self.weight, padding=(0, height // 2, width // 2)) + self.bias


def _norm(x: mx.array, eps: float = 1e-8) -> mx.array:
    return mx.fast.rms_norm(x, None, eps)


class ResidualBlock(nn.Module):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        eps: float,
        activation: Callable[[mx.array], mx.array] = nn.silu,
    ):
        super().__init__()
        self.eps = eps
        self.activation = activation
        self.conv1 = Conv3d(in_channels, out_channels)
        self.conv2 = Conv3d(out_channels, out_channels)
        if in_channels != out_channels:
            self.conv_shortcut = Conv3d(in_channels, out_channels, (1, 1, 1))

    def __call__(self, x: mx.array) -> mx.array:
        h = self.conv1(self.activation(_norm(x)))
        h = self.conv2(nn.silu(_norm(h)))
        return h + (self.conv_shortcut(_norm(x, self.eps)) if "conv_shortcut" in self else x)


class Upsampler(nn.Module):
    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        if temporal:
            self.time_conv = Conv3d(channels, 2 * channels, (3, 1, 1))

    def __call__(self, x: mx.array, first: bool) -> mx.array:
        if "time_conv" in self:
            x = interleave_frames(self.time_conv(x))
            x = x[:, 1:] if first else x
        return self.conv(nearest_upsample(x)[0])[None]


class UpBlock(nn.Module):
    def __init__(self, config: TurboDecoderConfig, in_channels: int, level: int):
        super().__init__()
        width, upsample = config.widths[level], config.upsample[level]
        if in_channels != width:
            self.conv_in = ResidualBlock(in_channels, width, config.norm_eps)
        if upsample:
            self.upsampler = Upsampler(width, temporal=not config.spatial_only[level])
        # Blocks behind an upsampler start with ReLU: odd, and what the weights were trained with.
        activation = nn.relu if upsample else nn.silu
        self.resnets = [
            ResidualBlock(width, width, config.norm_eps, activation) for _ in range(config.layers[level])
        ]

    def __call__(self, x: mx.array, first: bool) -> mx.array:
        if "conv_in" in self:
            x = self.conv_in(x)
        if "upsampler" in self:
            x = self.upsampler(x, first)
        for block in self.resnets:
            x = block(x)
            mx.eval(x)
        return x


class TurboDecoder(nn.Module):
    def __init__(self, config: TurboDecoderConfig):
        super().__init__()
        self.config = config
        widths = config.widths
        self.conv_in = Conv3d(config.latent_channels, widths[-1])
        self.mid_block = [
            ResidualBlock(widths[-1], widths[-1], config.norm_eps) for _ in range(config.layers[-1])
        ]
        inputs = (*widths[1:], widths[-1])
        self.up_blocks = [UpBlock(config, inputs[level], level) for level in reversed(range(len(widths)))]
        self.conv_out = Conv3d(widths[0], 3 * PATCH**2)

    def __call__(self, latents: mx.array) -> Iterator[mx.array]:
        """Normalised latents (n, h, w, 48) → pixels about [-1, 1], (frames, 16h, 16w, 3) a window.

        All windows together hold 4n - 3 frames."""
        x = denormalize(latents.astype(mx.float32))
        first, step = self.config.first_window, self.config.window
        left = 4 * len(x) - 3
        padding = max(first - len(x), 0) or -(len(x) - first) % step
        if padding:
            x = mx.concatenate([x, mx.repeat(x[-1:], padding, axis=0)])
        for start, stop in _windows(len(x), first, step):
            frames = self._decode_window(x, start, stop)[:left]
            left -= len(frames)
            if len(frames):
                yield frames

    def _decode_window(self, x: mx.array, start: int, stop: int) -> mx.array:
        """Frames of latents [start, stop), decoded with one latent frame of context on each side."""
        before, after = start > 0, stop < len(x)
        frames = self._decode(x[start - before : stop + after], first=not before)
        frames = frames[OVERLAP * before : len(frames) - OVERLAP * after]
        mx.eval(frames)
        return frames

    def _decode(self, x: mx.array, first: bool) -> mx.array:
        x = self.conv_in(x[None])
        for block in self.mid_block:
            x = block(x)
        for up in self.up_blocks:
            x = up(x, first)
        return unpatchify(self.conv_out(nn.silu(_norm(x)))[0])


def _windows(frames: int, first: int, step: int) -> Iterator[tuple[int, int]]:
    yield 0, first
    for start in range(first, frames, step):
        yield start, start + step
