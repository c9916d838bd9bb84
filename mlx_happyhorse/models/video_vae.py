"""Wan 2.2 video VAE: pixels ↔ 48 channels at 1/4 of the frames (the first alone) and 1/16 of the size.

Encoder and decoder are causal in time and run over short chunks. What a temporal convolution must
remember of the chunk before is kept in a `Stream`, so that memory does not grow with the clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn

from .config import Config
from .convolution import conv3d
from .normalization import denormalize, normalize

PATCH = 2
CHUNK = 4  # pixel frames per latent frame after the first

Stream = dict[int, mx.array]  # id(convolution) → the last frames it saw


@dataclass
class VideoVAEConfig(Config):
    width: int
    latent_channels: int = 48
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    residual_blocks: int = 2
    temporal: tuple[bool, ...] = (False, True, True)  # which encoder levels halve time


class CausalConv3d(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int, int], stride: int = 1):
        super().__init__()
        self.weight = mx.zeros((out_channels, *kernel, in_channels))
        self.bias = mx.zeros(out_channels)
        self.stride = stride

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        depth, height = self.weight.shape[1:3]
        if depth > 1:
            x = self._with_past(x, depth - self.stride, stream)
        y = conv3d(x, self.weight, self.stride, height // 2) + self.bias
        mx.eval(y)  # what several convolutions need for themselves would add up
        return y

    def _with_past(self, x: mx.array, frames: int, stream: Stream) -> mx.array:
        past = stream.get(id(self))
        if past is None:
            past = mx.zeros((x.shape[0], frames, *x.shape[2:]), x.dtype)
        x = mx.concatenate([past, x], axis=1)
        stream[id(self)] = mx.contiguous(x[:, -frames:])  # a view would hold the rest too
        mx.eval(stream[id(self)])
        return x


def _conv3x3x3(in_channels: int, out_channels: int) -> CausalConv3d:
    return CausalConv3d(in_channels, out_channels, (3, 3, 3))


def _pointwise(in_channels: int, out_channels: int) -> CausalConv3d:
    return CausalConv3d(in_channels, out_channels, (1, 1, 1))


class ChannelNorm(nn.Module):
    """Each pixel's channels scaled to length √C, then by γ."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = mx.ones(channels)

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, self.gamma, 1e-24)


class ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = ChannelNorm(in_channels)
        self.conv1 = _conv3x3x3(in_channels, out_channels)
        self.norm2 = ChannelNorm(out_channels)
        self.conv2 = _conv3x3x3(out_channels, out_channels)
        if in_channels != out_channels:
            self.shortcut = _pointwise(in_channels, out_channels)

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        h = self.conv1(nn.silu(self.norm1(x)), stream)
        h = self.conv2(nn.silu(self.norm2(h)), stream)
        return h + (self.shortcut(x, stream) if "shortcut" in self else x)


class AttentionBlock(nn.Module):
    """Self-attention with one head inside each frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        _, frames, height, width, channels = x.shape
        qkv = self.to_qkv(self.norm(x)).reshape(frames, 1, height * width, 3 * channels)
        q, k, v = mx.split(qkv, 3, axis=-1)
        h = mx.fast.scaled_dot_product_attention(q, k, v, scale=channels**-0.5)
        return x + self.proj(h.reshape(x.shape))


class MiddleBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.before = ResidualBlock(channels, channels)
        self.attention = AttentionBlock(channels)
        self.after = ResidualBlock(channels, channels)

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        return self.after(self.attention(self.before(x, stream), stream), stream)


class Downsample(nn.Module):
    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        if temporal:
            self.time_conv = CausalConv3d(channels, channels, (3, 1, 1), stride=2)

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        x = _per_frame(self.conv, mx.pad(x, [(0, 0), (0, 0), (0, 1), (0, 1), (0, 0)]))
        if "time_conv" not in self:
            return x
        if id(self.time_conv) in stream:
            return self.time_conv(x, stream)
        stream[id(self.time_conv)] = x  # the clip's first frame stays single
        return x


class Upsample(nn.Module):
    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        if temporal:
            self.time_conv = CausalConv3d(channels, 2 * channels, (3, 1, 1))

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        if "time_conv" in self:
            if id(self.time_conv) in stream:
                x = interleave_frames(self.time_conv(x, stream))
            else:  # the clip's first frame stays single, and the next does not see it
                stream[id(self.time_conv)] = mx.zeros((1, 2, *x.shape[2:]), x.dtype)
        return _per_frame(self.conv, nearest_upsample(x))


def interleave_frames(x: mx.array) -> mx.array:
    """(1, t, h, w, 2c) → (1, 2t, h, w, c)."""
    _, t, h, w, c = x.shape
    return x.reshape(1, t, h, w, 2, c // 2).transpose(0, 1, 4, 2, 3, 5).reshape(1, 2 * t, h, w, c // 2)


def nearest_upsample(x: mx.array) -> mx.array:
    return mx.repeat(mx.repeat(x, 2, axis=2), 2, axis=3)


def _per_frame(conv: nn.Conv2d, x: mx.array) -> mx.array:
    y = conv(x[0])[None]
    mx.eval(y)
    return y


def _average_down(x: mx.array, channels: int, ft: int, fs: int) -> mx.array:
    """The encoder's shortcut: each ft × fs × fs cell becomes channels, averaged in groups."""
    x = mx.pad(x, [(0, 0), (-x.shape[1] % ft, 0), (0, 0), (0, 0), (0, 0)])
    _, t, h, w, c = x.shape
    x = x.reshape(t // ft, ft, h // fs, fs, w // fs, fs, c).transpose(0, 2, 4, 6, 1, 3, 5)
    return x.reshape(1, t // ft, h // fs, w // fs, channels, -1).mean(axis=-1)


def _duplicate_up(x: mx.array, channels: int, ft: int, fs: int, first: bool) -> mx.array:
    """The decoder's shortcut: channels, repeated, become ft × fs × fs cells."""
    _, t, h, w, c = x.shape
    x = mx.repeat(x, channels * ft * fs * fs // c, axis=-1)
    x = x.reshape(t, h, w, channels, ft, fs, fs).transpose(0, 4, 1, 5, 2, 6, 3)
    x = x.reshape(1, t * ft, h * fs, w * fs, channels)
    return x[:, ft - 1 :] if first else x


class DownBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, blocks: int, temporal: bool, last: bool):
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.blocks = [ResidualBlock(a, b) for a, b in pairwise(widths)]
        if not last:
            self.resample = Downsample(out_channels, temporal)
        self.factors = (2 if temporal else 1, 1 if last else 2)

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        h = x
        for block in self.blocks:
            h = block(h, stream)
        if "resample" in self:
            h = self.resample(h, stream)
        return h + _average_down(x, h.shape[-1], *self.factors)


class UpBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, blocks: int, temporal: bool, last: bool):
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.blocks = [ResidualBlock(a, b) for a, b in pairwise(widths)]
        if not last:
            self.resample = Upsample(out_channels, temporal)
        self.factors = (2 if temporal else 1, 2)

    def __call__(self, x: mx.array, stream: Stream, first: bool) -> mx.array:
        h = x
        for block in self.blocks:
            h = block(h, stream)
        if "resample" not in self:
            return h
        h = self.resample(h, stream)
        return h + _duplicate_up(x, h.shape[-1], *self.factors, first)


class VideoEncoder(nn.Module):
    def __init__(self, config: VideoVAEConfig):
        super().__init__()
        self.config = config
        widths = [config.width * m for m in (1, *config.multipliers)]
        levels = len(config.multipliers)
        self.conv_in = _conv3x3x3(3 * PATCH**2, widths[0])
        self.down = [
            DownBlock(
                widths[i],
                widths[i + 1],
                config.residual_blocks,
                temporal=i < levels - 1 and config.temporal[i],
                last=i == levels - 1,
            )
            for i in range(levels)
        ]
        self.middle = MiddleBlock(widths[-1])
        self.norm_out = ChannelNorm(widths[-1])
        self.conv_out = _conv3x3x3(widths[-1], 2 * config.latent_channels)
        self.to_moments = nn.Linear(2 * config.latent_channels, 2 * config.latent_channels)

    def __call__(self, pixels: mx.array) -> mx.array:
        """Pixels (1 + 4n, h, w, 3) in [-1, 1] → normalised latents (1 + n, h/16, w/16, 48)."""
        x = _patchify(pixels.astype(mx.float32))[None]
        stream: Stream = {}
        latents = []
        for start in range(1 - CHUNK, x.shape[1], CHUNK):
            latents.append(self._encode_chunk(x[:, max(start, 0) : start + CHUNK], stream))
            mx.eval(latents[-1], stream)
        return mx.concatenate(latents)

    def _encode_chunk(self, x: mx.array, stream: Stream) -> mx.array:
        x = self.conv_in(x, stream)
        for block in self.down:
            x = block(x, stream)
        x = self.middle(x, stream)
        x = self.conv_out(nn.silu(self.norm_out(x)), stream)
        mean, _ = mx.split(self.to_moments(x[0]), 2, axis=-1)
        return normalize(mean)


class VideoDecoder(nn.Module):
    def __init__(self, config: VideoVAEConfig):
        super().__init__()
        self.config = config
        widths = [config.width * m for m in (config.multipliers[-1], *reversed(config.multipliers))]
        levels = len(config.multipliers)
        temporal = config.temporal[::-1]
        self.from_latent = nn.Linear(config.latent_channels, config.latent_channels)
        self.conv_in = _conv3x3x3(config.latent_channels, widths[0])
        self.middle = MiddleBlock(widths[0])
        self.up = [
            UpBlock(
                widths[i],
                widths[i + 1],
                config.residual_blocks + 1,
                temporal=i < levels - 1 and temporal[i],
                last=i == levels - 1,
            )
            for i in range(levels)
        ]
        self.norm_out = ChannelNorm(widths[-1])
        self.conv_out = _conv3x3x3(widths[-1], 3 * PATCH**2)

    def __call__(self, latents: mx.array) -> Iterator[mx.array]:
        """Normalised latents (n, h, w, 48) → pixels about [-1, 1], (1, 16h, 16w, 3) and then (4, …)."""
        x = self.from_latent(denormalize(latents.astype(mx.float32)))[None]
        stream: Stream = {}
        for i in range(x.shape[1]):
            frames = self._decode_chunk(x[:, i : i + 1], stream, first=i == 0)
            mx.eval(frames, stream)
            yield frames

    def _decode_chunk(self, x: mx.array, stream: Stream, first: bool) -> mx.array:
        x = self.middle(self.conv_in(x, stream), stream)
        for block in self.up:
            x = block(x, stream, first)
            mx.eval(x)
        x = self.conv_out(nn.silu(self.norm_out(x)), stream)
        return unpatchify(x[0])


def _patchify(x: mx.array) -> mx.array:
    """(t, h, w, 3) → (t, h/2, w/2, 12) with channels ordered (colour, column, row)."""
    t, h, w, c = x.shape
    x = x.reshape(t, h // PATCH, PATCH, w // PATCH, PATCH, c)
    return x.transpose(0, 1, 3, 5, 4, 2).reshape(t, h // PATCH, w // PATCH, -1)


def unpatchify(x: mx.array) -> mx.array:
    t, h, w, c = x.shape
    x = x.reshape(t, h, w, c // PATCH**2, PATCH, PATCH)
    return x.transpose(0, 1, 5, 2, 4, 3).reshape(t, h * PATCH, w * PATCH, -1)
