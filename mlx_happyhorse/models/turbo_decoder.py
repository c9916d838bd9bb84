"""MagiHuman's fast video decoder: Wan 2.2 latents → pixels, over sliding windows of latent frames.

Within a window frames go through the layers one after the other: every layer takes an iterator of single
frames, (1, 1, h, w, c), and returns one. A convolution keeps the two frames that it needs for the next, so
that neither memory nor the largest array grows with the window. Nothing holds on to a frame that it has
passed on: hence `map` in place of loops, whose variables would.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat

import mlx.core as mx
import mlx.nn as nn

from .config import Config
from .convolution import conv3d
from .normalization import denormalize
from .video_vae import PATCH, nearest_upsample, unpatchify

OVERLAP = 4  # pixel frames decoded from one latent frame of context

Frames = Iterator[mx.array]
Layer = Callable[[mx.array], mx.array]


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


def _unchanged(x: mx.array) -> mx.array:
    return x


class Conv3d(nn.Module):
    """Same-size convolution: zeros around the picture, the end frames repeated in time."""

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int, int] = (3, 3, 3)):
        super().__init__()
        self.weight = mx.zeros((out_channels, *kernel, in_channels))
        self.bias = mx.zeros(out_channels)

    def __call__(self, frames: Frames, before: Layer = _unchanged) -> Frames:
        """`before` is computed of the frames as often as they are needed."""
        ends = self.weight.shape[1] // 2
        held: list[mx.array] = []
        for frame in chain(frames, repeat(None, ends)):
            if frame is None:
                frame = held[-1]
            held += [frame] if held else [frame] * (ends + 1)
            if len(held) > 2 * ends:
                yield _evaluated(self.convolve(before(_joined(held))))

    def convolve(self, x: mx.array) -> mx.array:
        """(1, t + depth - 1, h, w, c) → (1, t, h, w, o)."""
        return conv3d(x, self.weight, padding=self.weight.shape[2] // 2) + self.bias


def _joined(frames: list[mx.array]) -> mx.array:
    """As one array. The first is held no longer."""
    joined = mx.concatenate(frames, axis=1)
    del frames[0]
    return joined


def _evaluated(x: mx.array) -> mx.array:
    mx.eval(x)
    return x


def _norm(x: mx.array, eps: float = 1e-8) -> mx.array:
    return mx.fast.rms_norm(x, None, eps)


class ResidualBlock(nn.Module):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        eps: float,
        activation: Layer = nn.silu,
    ):
        super().__init__()
        self.eps = eps
        self.activation = activation
        self.conv1 = Conv3d(in_channels, out_channels)
        self.conv2 = Conv3d(out_channels, out_channels)
        if in_channels != out_channels:
            self.conv_shortcut = Conv3d(in_channels, out_channels, (1, 1, 1))

    def __call__(self, frames: Frames) -> Frames:
        skipping: deque[mx.array] = deque()  # until the convolutions' frames come out, later

        def enter(x: mx.array) -> mx.array:
            skipping.append(x)
            return x

        def leave(h: mx.array) -> mx.array:
            return h + self._shortcut(skipping.popleft())

        # The first convolution keeps the very frames that are skipping, and not what it made of them.
        h = self.conv1(map(enter, frames), before=lambda x: self.activation(_norm(x)))
        return map(leave, self.conv2(map(_activated, h)))

    def _shortcut(self, x: mx.array) -> mx.array:
        if "conv_shortcut" not in self:
            return x
        return self.conv_shortcut.convolve(_norm(x, self.eps))


def _activated(x: mx.array) -> mx.array:
    return nn.silu(_norm(x))


class Upsampler(nn.Module):
    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        if temporal:
            self.time_conv = Conv3d(channels, 2 * channels, (3, 1, 1))

    def __call__(self, frames: Frames, first: bool) -> Frames:
        if "time_conv" in self:
            frames = chain.from_iterable(map(_halves, self.time_conv(frames)))
            frames = islice(frames, 1, None) if first else frames
        return map(self._enlarge, frames)

    def _enlarge(self, frame: mx.array) -> mx.array:
        return _evaluated(self.conv(nearest_upsample(frame)[0])[None])


def _halves(x: mx.array) -> Iterator[mx.array]:
    """(1, 1, h, w, 2c) → two frames (1, 1, h, w, c), one after the other."""
    return iter(mx.split(x, 2, axis=-1))


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

    def __call__(self, frames: Frames, first: bool) -> Frames:
        if "conv_in" in self:
            frames = self.conv_in(frames)
        if "upsampler" in self:
            frames = self.upsampler(frames, first)
        for block in self.resnets:
            frames = block(frames)
        return frames


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
        """Normalised latents (n, h, w, 48) → 4n - 3 frames (1, 16h, 16w, 3) of pixels about [-1, 1]."""
        first, step = self.config.first_window, self.config.window
        count = len(latents)
        left = 4 * count - 3
        total = count + (max(first - count, 0) or -(count - first) % step)
        for start, stop in _windows(total, first, step):
            before, after = int(start > 0), int(stop < total)
            window = latents[start - before : stop + after]
            missing = stop + after - start + before - len(window)
            if missing:
                window = mx.concatenate([window, mx.repeat(latents[-1:], missing, axis=0)])
            frames = min(4 * (stop - start) - (0 if start else 3), left)
            # The frames of the context on either side are cut off again.
            made = self._decode(denormalize(window.astype(mx.float32)), first=not before)
            yield from islice(made, OVERLAP * before, OVERLAP * before + frames)
            left -= frames

    def _decode(self, x: mx.array, first: bool) -> Iterator[mx.array]:
        frames = self.conv_in(iter(mx.split(x[None], len(x), axis=1)))
        for block in self.mid_block:
            frames = block(frames)
        for up in self.up_blocks:
            frames = up(frames, first)
        return map(_pixels, self.conv_out(map(_activated, frames)))


def _pixels(x: mx.array) -> mx.array:
    return _evaluated(unpatchify(x[0]))


def _windows(frames: int, first: int, step: int) -> Iterator[tuple[int, int]]:
    yield 0, first
    for start in range(first, frames, step):
        yield start, start + step
