"""MagiHuman's fast video decoder: Wan 2.2 latents → pixels, over sliding windows of latent frames.

Within a window frames are decoded one at a time: every layer takes an iterator of single frames,
(1, 1, h, w, c), and returns one. A convolution buffers the two frames that the next output needs, so that
neither peak memory nor the largest array grows with the window. No layer may keep a reference to a frame
that it has passed on: hence `map` instead of loops, whose variables would hold one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat

import mlx.core as mx
import mlx.nn as nn

from ..geometry import CHUNK, pixel_frames
from .config import Config
from .convolution import Convolution, conv3d
from .normalization import denormalize
from .video_vae import PATCH, nearest_upsample, unpatchify

CONTEXT = 1  # latent frames decoded on either side of a window, and cut off again

Frames = Iterator[mx.array]
Layer = Callable[[mx.array], mx.array]


@dataclass
class TurboDecoderConfig(Config):
    """The decoder's dimensions. Levels are listed as published: from the pixels inwards."""

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
            raise ValueError("a window must have at least one frame")


def _identity(x: mx.array) -> mx.array:
    return x


class Conv3d(nn.Module):
    """Convolution that keeps the size: zero padding in space, the first and last frame repeated in time."""

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int, int] = (3, 3, 3)):
        super().__init__()
        self.weight = mx.zeros((out_channels, *kernel, in_channels))
        self.bias = mx.zeros(out_channels)

    def __call__(self, frames: Frames, before: Layer = _identity) -> Frames:
        """Yield the convolved frames. `before` is applied to the input frames at every use, so that the
        buffer holds the originals."""
        padding = self.weight.shape[1] // 2
        buffer: list[mx.array] = []
        for frame in chain(frames, repeat(None, padding)):
            if frame is None:
                frame = buffer[-1]
            buffer += [frame] if buffer else [frame] * (padding + 1)
            if len(buffer) > 2 * padding:
                yield _evaluated(self.convolve(before(_join_and_shift(buffer))))

    def convolve(self, x: mx.array) -> mx.array:
        """Convolve (1, t + depth - 1, h, w, c) to (1, t, h, w, o), without padding in time."""
        return conv3d(x, self.weight, padding=self.weight.shape[2] // 2) + self.bias


def _join_and_shift(buffer: list[mx.array]) -> mx.array:
    """Return the frames as one array, and remove the first from the buffer."""
    joined = mx.concatenate(buffer, axis=1)
    del buffer[0]
    return joined


def _evaluated(x: mx.array) -> mx.array:
    mx.eval(x)
    return x


def _norm(x: mx.array, eps: float = 1e-8) -> mx.array:
    return mx.fast.rms_norm(x, None, eps)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, each behind a norm and an activation."""

    def __init__(self, in_channels: int, out_channels: int, eps: float, activation: Layer = nn.silu):
        super().__init__()
        self.eps = eps
        self.activation = activation
        self.conv1 = Conv3d(in_channels, out_channels)
        self.conv2 = Conv3d(out_channels, out_channels)
        if in_channels != out_channels:
            self.conv_shortcut = Conv3d(in_channels, out_channels, (1, 1, 1))

    def __call__(self, frames: Frames) -> Frames:
        shortcuts: deque[mx.array] = deque()  # inputs whose convolved frames are still to come

        def enter(x: mx.array) -> mx.array:
            shortcuts.append(x)
            return x

        def leave(h: mx.array) -> mx.array:
            return h + self._shortcut(shortcuts.popleft())

        # `before` lets the first convolution buffer the inputs, which the shortcut holds anyway: buffering
        # them normalised would take memory for a copy.
        h = self.conv1(map(enter, frames), before=lambda x: self.activation(_norm(x)))
        return map(leave, self.conv2(map(_activated, h)))

    def _shortcut(self, x: mx.array) -> mx.array:
        if "conv_shortcut" not in self:
            return x
        return self.conv_shortcut.convolve(_norm(x, self.eps))


def _activated(x: mx.array) -> mx.array:
    return nn.silu(_norm(x))


class Upsampler(nn.Module):
    """Twice the frames where `temporal`, then twice the height and width."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        if temporal:
            self.time_conv = Conv3d(channels, 2 * channels, (3, 1, 1))

    def __call__(self, frames: Frames, first: bool) -> Frames:
        if "time_conv" in self:
            frames = chain.from_iterable(map(_split_channels, self.time_conv(frames)))
            frames = islice(frames, 1, None) if first else frames  # a clip's first frame stays single
        return map(self._upsample, frames)

    def _upsample(self, frame: mx.array) -> mx.array:
        return _evaluated(self.conv(nearest_upsample(frame)[0])[None])


def _split_channels(x: mx.array) -> Iterator[mx.array]:
    """Split (1, 1, h, w, 2c) into two frames (1, 1, h, w, c)."""
    return iter(mx.split(x, 2, axis=-1))


class UpBlock(nn.Module):
    def __init__(self, config: TurboDecoderConfig, in_channels: int, level: int):
        super().__init__()
        width, upsample = config.widths[level], config.upsample[level]
        if in_channels != width:
            self.conv_in = ResidualBlock(in_channels, width, config.norm_eps)
        if upsample:
            self.upsampler = Upsampler(width, temporal=not config.spatial_only[level])
        # Blocks behind an upsampler start with ReLU instead of SiLU: the weights were trained that way.
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
    """Decodes Wan 2.2 latents in windows of `config.first_window`, then `config.window` latent frames."""

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
        """Decode normalised latents (n, h, w, 48) to 4n - 3 frames (1, 16h, 16w, 3), about [-1, 1], fp32."""
        first, step = self.config.first_window, self.config.window
        count = len(latents)
        left = pixel_frames(count)
        # The latents as windows, the last of which may reach beyond their end.
        total = count + (max(first - count, 0) or -(count - first) % step)
        for start, stop in _windows(total, first, step):
            # A window with its context, padded with copies of the last latent frame.
            before, after = CONTEXT * (start > 0), CONTEXT * (stop < total)
            window = latents[start - before : stop + after]
            missing = stop + after - start + before - len(window)
            if missing:
                window = mx.concatenate([window, mx.repeat(latents[-1:], missing, axis=0)])
            # Its frames, without those of the context and of the padding.
            frames = min(CHUNK * (stop - start) if start else pixel_frames(stop), left)
            decoded = self._decode(denormalize(window.astype(mx.float32)), first=not before)
            yield from islice(decoded, CHUNK * before, CHUNK * before + frames)
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
    """Yield (start, stop) of the windows."""
    yield 0, first
    for start in range(first, frames, step):
        yield start, start + step


def convolutions(
    config: TurboDecoderConfig, latents: int, height: int, width: int
) -> list[tuple[Convolution, int]]:
    """Return the decoder's convolutions, each over one frame, with the number of frames that it computes for
    the longest window. `latents` (frames), `height` and `width` are those of the latents."""
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
