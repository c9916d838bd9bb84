"""Wan 2.2 video VAE: pixels ↔ 48 channels at 1/4 of the frames (the first alone) and 1/16 of the size.

Encoder and decoder are causal in time and run over short chunks. A `Cache` holds the frames of the chunk
before that temporal convolutions still need, so that peak memory does not grow with the clip. Layers take
and return arrays (1, frames, h, w, channels).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn

from ..geometry import CHUNK
from .config import Config
from .convolution import Convolution, conv3d
from .normalization import denormalize, normalize

PATCH = 2  # pixels of the side of a patch, which enters and leaves the network as channels

Cache = dict[int, mx.array]  # id(convolution) → its last input frames


@dataclass
class VideoVAEConfig(Config):
    """The VAE's dimensions. Levels are listed from the pixels inwards."""

    width: int
    latent_channels: int = 48
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    residual_blocks: int = 2
    temporal: tuple[bool, ...] = (False, True, True)  # which encoder levels halve time


class CausalConv3d(nn.Module):
    """Convolution that sees no later frame: zero padding in space, cached frames before it in time."""

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int, int], stride: int = 1):
        super().__init__()
        self.weight = mx.zeros((out_channels, *kernel, in_channels))
        self.bias = mx.zeros(out_channels)
        self.stride = stride

    def __call__(self, x: mx.array, cache: Cache) -> mx.array:
        depth, height = self.weight.shape[1:3]
        if depth > 1:
            x = self._prepend_past(x, depth - self.stride, cache)
        y = conv3d(x, self.weight, self.stride, height // 2) + self.bias
        mx.eval(y)  # the temporary memory of several convolutions would add up
        return y

    def _prepend_past(self, x: mx.array, frames: int, cache: Cache) -> mx.array:
        past = cache.get(id(self))
        if past is None:
            past = mx.zeros((x.shape[0], frames, *x.shape[2:]), x.dtype)
        x = mx.concatenate([past, x], axis=1)
        cache[id(self)] = mx.contiguous(x[:, -frames:])  # a view would keep all of x in memory
        mx.eval(cache[id(self)])
        return x


def _conv3x3x3(in_channels: int, out_channels: int) -> CausalConv3d:
    return CausalConv3d(in_channels, out_channels, (3, 3, 3))


def _pointwise(in_channels: int, out_channels: int) -> CausalConv3d:
    return CausalConv3d(in_channels, out_channels, (1, 1, 1))


class ChannelNorm(nn.Module):
    """RMS norm over each pixel's channels, scaled by γ."""

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

    def __call__(self, x: mx.array, cache: Cache) -> mx.array:
        h = self.conv1(nn.silu(self.norm1(x)), cache)
        h = self.conv2(nn.silu(self.norm2(h)), cache)
        return h + (self.shortcut(x, cache) if "shortcut" in self else x)


class AttentionBlock(nn.Module):
    """Single-head self-attention within each frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def __call__(self, x: mx.array, cache: Cache) -> mx.array:
        _, frames, height, width, channels = x.shape
        qkv = self.to_qkv(self.norm(x)).reshape(frames, 1, height * width, 3 * channels)
        q, k, v = mx.split(qkv, 3, axis=-1)
        h = mx.fast.scaled_dot_product_attention(q, k, v, scale=channels**-0.5)
        return x + self.proj(h.reshape(x.shape))


class MiddleBlock(nn.Module):
    """Attention between two residual blocks, at the size of the latents."""

    def __init__(self, channels: int):
        super().__init__()
        self.before = ResidualBlock(channels, channels)
        self.attention = AttentionBlock(channels)
        self.after = ResidualBlock(channels, channels)

    def __call__(self, x: mx.array, cache: Cache) -> mx.array:
        return self.after(self.attention(self.before(x, cache), cache), cache)


class Downsample(nn.Module):
    """Half the height and width, then half the frames where `temporal`."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        if temporal:
            self.time_conv = CausalConv3d(channels, channels, (3, 1, 1), stride=2)

    def __call__(self, x: mx.array, cache: Cache) -> mx.array:
        x = _per_frame(self.conv, mx.pad(x, [(0, 0), (0, 0), (0, 1), (0, 1), (0, 0)]))
        if "time_conv" not in self:
            return x
        if id(self.time_conv) in cache:
            return self.time_conv(x, cache)
        cache[id(self.time_conv)] = x  # a clip's first frame stays single
        return x


class Upsample(nn.Module):
    """Twice the frames where `temporal`, then twice the height and width."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        if temporal:
            self.time_conv = CausalConv3d(channels, 2 * channels, (3, 1, 1))

    def __call__(self, x: mx.array, cache: Cache) -> mx.array:
        if "time_conv" in self:
            if id(self.time_conv) in cache:
                x = interleave_frames(self.time_conv(x, cache))
            else:  # a clip's first frame stays single, and the next does not see it
                cache[id(self.time_conv)] = mx.zeros((1, 2, *x.shape[2:]), x.dtype)
        return _per_frame(self.conv, nearest_upsample(x))


def interleave_frames(x: mx.array) -> mx.array:
    """Turn two halves of the channels into frames: (1, t, h, w, 2c) → (1, 2t, h, w, c)."""
    _, t, h, w, c = x.shape
    return x.reshape(1, t, h, w, 2, c // 2).transpose(0, 1, 4, 2, 3, 5).reshape(1, 2 * t, h, w, c // 2)


def nearest_upsample(x: mx.array) -> mx.array:
    """Repeat each pixel twice in both directions: (1, t, h, w, c) → (1, t, 2h, 2w, c)."""
    return mx.repeat(mx.repeat(x, 2, axis=2), 2, axis=3)


def _per_frame(conv: nn.Conv2d, x: mx.array) -> mx.array:
    y = conv(x[0])[None]
    mx.eval(y)
    return y


def _average_down(x: mx.array, channels: int, ft: int, fs: int) -> mx.array:
    """Return the encoder's shortcut: each cell of ft × fs × fs becomes channels, averaged in groups."""
    x = mx.pad(x, [(0, 0), (-x.shape[1] % ft, 0), (0, 0), (0, 0), (0, 0)])
    _, t, h, w, c = x.shape
    x = x.reshape(t // ft, ft, h // fs, fs, w // fs, fs, c).transpose(0, 2, 4, 6, 1, 3, 5)
    return x.reshape(1, t // ft, h // fs, w // fs, channels, -1).mean(axis=-1)


def _duplicate_up(x: mx.array, channels: int, ft: int, fs: int, first: bool) -> mx.array:
    """Return the decoder's shortcut: repeated channels become cells of ft × fs × fs."""
    _, t, h, w, c = x.shape
    x = mx.repeat(x, channels * ft * fs * fs // c, axis=-1)
    x = x.reshape(t, h, w, channels, ft, fs, fs).transpose(0, 4, 1, 5, 2, 6, 3)
    x = x.reshape(1, t * ft, h * fs, w * fs, channels)
    return x[:, ft - 1 :] if first else x


class DownBlock(nn.Module):
    """One level of the encoder: residual blocks and a downsampling, beside an averaging shortcut."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, temporal: bool, last: bool):
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.blocks = [ResidualBlock(a, b) for a, b in pairwise(widths)]
        if not last:
            self.resample = Downsample(out_channels, temporal)
        self.factors = (2 if temporal else 1, 1 if last else 2)

    def __call__(self, x: mx.array, cache: Cache) -> mx.array:
        h = x
        for block in self.blocks:
            h = block(h, cache)
        if "resample" in self:
            h = self.resample(h, cache)
        return h + _average_down(x, h.shape[-1], *self.factors)


class UpBlock(nn.Module):
    """One level of the decoder: residual blocks and an upsampling, beside a repeating shortcut."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, temporal: bool, last: bool):
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.blocks = [ResidualBlock(a, b) for a, b in pairwise(widths)]
        if not last:
            self.resample = Upsample(out_channels, temporal)
        self.factors = (2 if temporal else 1, 2)

    def __call__(self, x: mx.array, cache: Cache, first: bool) -> mx.array:
        h = x
        for block in self.blocks:
            h = block(h, cache)
        if "resample" not in self:
            return h
        h = self.resample(h, cache)
        return h + _duplicate_up(x, h.shape[-1], *self.factors, first)


class VideoEncoder(nn.Module):
    """Pixels → latents: the mean of the VAE's distribution, normalised."""

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
        """Encode pixels (1 + 4n, h, w, 3) in [-1, 1] to normalised latents (1 + n, h/16, w/16, 48), fp32."""
        x = _patchify(pixels.astype(mx.float32))[None]
        cache: Cache = {}
        latents = []
        for start in range(1 - CHUNK, x.shape[1], CHUNK):  # one frame, then four at a time
            latents.append(self._encode_chunk(x[:, max(start, 0) : start + CHUNK], cache))
            mx.eval(latents[-1], cache)
        return mx.concatenate(latents)

    def _encode_chunk(self, x: mx.array, cache: Cache) -> mx.array:
        x = self.conv_in(x, cache)
        for block in self.down:
            x = block(x, cache)
        x = self.middle(x, cache)
        x = self.conv_out(nn.silu(self.norm_out(x)), cache)
        mean, _ = mx.split(self.to_moments(x[0]), 2, axis=-1)
        return normalize(mean)


class VideoDecoder(nn.Module):
    """Latents → pixels, one latent frame at a time."""

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
        """Decode normalised latents (n, h, w, 48); yield pixels about [-1, 1], fp32, of each latent frame:
        (1, 16h, 16w, 3) for the first and (4, 16h, 16w, 3) for the others."""
        x = self.from_latent(denormalize(latents.astype(mx.float32)))[None]
        cache: Cache = {}
        for i in range(x.shape[1]):
            frames = self._decode_chunk(x[:, i : i + 1], cache, first=i == 0)
            mx.eval(frames, cache)
            yield frames

    def _decode_chunk(self, x: mx.array, cache: Cache, first: bool) -> mx.array:
        x = self.middle(self.conv_in(x, cache), cache)
        for block in self.up:
            x = block(x, cache, first)
            mx.eval(x)
        x = self.conv_out(nn.silu(self.norm_out(x)), cache)
        return unpatchify(x[0])


def _patchify(x: mx.array) -> mx.array:
    """Pack patches into channels, ordered (colour, column, row): (t, h, w, 3) → (t, h/2, w/2, 12)."""
    t, h, w, c = x.shape
    x = x.reshape(t, h // PATCH, PATCH, w // PATCH, PATCH, c)
    return x.transpose(0, 1, 3, 5, 4, 2).reshape(t, h // PATCH, w // PATCH, -1)


def unpatchify(x: mx.array) -> mx.array:
    """Invert `_patchify`: (t, h, w, 12) → (t, 2h, 2w, 3)."""
    t, h, w, c = x.shape
    x = x.reshape(t, h, w, c // PATCH**2, PATCH, PATCH)
    return x.transpose(0, 1, 5, 2, 4, 3).reshape(t, h * PATCH, w * PATCH, -1)


def decoder_convolutions(config: VideoVAEConfig, height: int, width: int) -> list[Convolution]:
    """Return the decoder's convolutions over one latent frame of `height` × `width` latents."""
    widths = [config.width * m for m in (config.multipliers[-1], *reversed(config.multipliers))]
    pixels, frames = height * width, 1
    found = [Convolution(pixels, 1, config.latent_channels, widths[0])]
    found += [Convolution(pixels, 1, widths[0], widths[0])] * 4  # the middle block
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


def encoder_convolutions(config: VideoVAEConfig, height: int, width: int) -> list[Convolution]:
    """Return the encoder's convolutions over a first frame of `height` × `width` latents."""
    widths = [config.width * m for m in (1, *config.multipliers)]
    pixels = height * width * 4 ** (len(config.multipliers) - 1)
    found = [Convolution(pixels, 1, 12, widths[0])]
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        found.append(Convolution(pixels, 1, inputs, outputs))
        found += [Convolution(pixels, 1, outputs, outputs)] * (2 * config.residual_blocks - 1)
        if i < len(config.multipliers) - 1:
            pixels //= 4
            found.append(Convolution(pixels, 1, outputs, outputs, depth=1))
    found += [Convolution(pixels, 1, widths[-1], widths[-1])] * 4  # the middle block
    return [*found, Convolution(pixels, 1, widths[-1], 2 * config.latent_channels)]
