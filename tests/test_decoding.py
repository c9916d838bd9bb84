"""The Turbo decoder in short runs of frames, against the same network over whole windows at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx
import mlx.nn as nn
import pytest
from helpers.golden_cases import distance
from mlx.utils import tree_map

from mlx_happyhorse.models import convolution, turbo_decoder
from mlx_happyhorse.models.normalization import denormalize
from mlx_happyhorse.models.turbo_decoder import TurboDecoder, TurboDecoderConfig
from mlx_happyhorse.models.video_vae import unpatchify

SMALL = {"widths": (4, 8, 8, 16), "layers": (1, 1, 1, 1, 1)}
CONFIGS = {
    "small": SMALL,
    "one width": SMALL | {"widths": (8, 8, 8, 8)},
    "as deep as published": {"widths": (4, 6, 8, 10)},
    "uneven layers": SMALL | {"layers": (0, 2, 0, 1, 3)},
    "time doubled further out": SMALL | {"spatial_only": (False, False, True, False)},
    "time doubled outermost": SMALL | {"spatial_only": (False, False, False, True)},
    "three levels": SMALL
    | {
        "widths": (4, 8, 8),
        "layers": (1, 1, 1, 1),
        "upsample": (False, True, True),
        "spatial_only": [False] * 3,
    },
    "windows of one frame": SMALL | {"first_window": 1, "window": 1},
    "windows of two sizes": SMALL | {"first_window": 3, "window": 2},
}


def decoder(**config: object) -> TurboDecoder:
    key = mx.random.key(3)

    def draw(like: mx.array) -> mx.array:
        nonlocal key
        key, now = mx.random.split(key)
        return mx.random.normal(like.shape, key=now) * (like.size / like.shape[0]) ** -0.5

    network = TurboDecoder(TurboDecoderConfig(**config))  # type: ignore[arg-type]
    network.update(tree_map(draw, network.parameters()))
    mx.eval(network.parameters())
    return network


def noise(frames: int, height: int = 2, width: int = 3) -> mx.array:
    return mx.random.normal((frames, height, width, 48), key=mx.random.key(frames))


def joined(network: TurboDecoder, latents: mx.array) -> mx.array:
    return mx.concatenate(list(network(latents)))


# The oracle: layer by layer over all the frames of a window.


def conv(layer: turbo_decoder.Conv3d, x: mx.array) -> mx.array:
    depth, height, width = layer.weight.shape[1:4]
    if depth == 3:
        x = mx.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
    return mx.conv3d(x, layer.weight, padding=(0, height // 2, width // 2)) + layer.bias


def norm(x: mx.array, eps: float = 1e-8) -> mx.array:
    return x * mx.rsqrt(mx.mean(x * x, axis=-1, keepdims=True) + eps)


def residual(block: turbo_decoder.ResidualBlock, x: mx.array, activation: Callable = nn.silu) -> mx.array:
    h = conv(block.conv2, nn.silu(norm(conv(block.conv1, activation(norm(x))))))
    return h + (conv(block.conv_shortcut, norm(x, block.eps)) if "conv_shortcut" in block else x)


def upsampled(layer: turbo_decoder.Upsampler, x: mx.array, first: bool) -> mx.array:
    if "time_conv" in layer:
        even, odd = mx.split(conv(layer.time_conv, x), 2, axis=-1)
        x = mx.stack([even, odd], axis=2).reshape(1, -1, *x.shape[2:])[:, int(first) :]
    x = mx.repeat(mx.repeat(x[0], 2, axis=1), 2, axis=2)
    return mx.conv2d(x, layer.conv.weight, padding=1)[None] + layer.conv.bias


def whole_window(network: TurboDecoder, x: mx.array, first: bool) -> mx.array:
    x = conv(network.conv_in, x[None])
    for block in network.mid_block:
        x = residual(block, x)
    for up in network.up_blocks:
        if "conv_in" in up:
            x = residual(up.conv_in, x)
        if "upsampler" in up:
            x = upsampled(up.upsampler, x, first)
        for block in up.resnets:
            x = residual(block, x, nn.relu if "upsampler" in up else nn.silu)
    return unpatchify(conv(network.conv_out, nn.silu(norm(x)))[0])


def oracle(network: TurboDecoder, latents: mx.array) -> mx.array:
    first, step = network.config.first_window, network.config.window
    total = first
    while total < len(latents):
        total += step
    x = denormalize(mx.concatenate([latents, *[latents[-1:]] * (total - len(latents))]))
    windows = [whole_window(network, x[: first + 1], True)[: 4 * first - 3]]
    for start in range(first, total, step):
        windows.append(whole_window(network, x[start - 1 : start + step + 1], False)[4 : 4 + 4 * step])
    return mx.concatenate(windows)[: 4 * len(latents) - 3]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_frames_one_by_one_are_the_whole_window(config):
    network = decoder(**config)
    for frames in (1, 2, 5, 8):
        out, expected = joined(network, noise(frames)), oracle(network, noise(frames))
        assert len(out) == 4 * frames - 3
        assert distance(out, expected) <= 1e-5


@pytest.mark.parametrize("shape", [(15, 1, 1), (7, 4, 2), (8, 3, 5)])
def test_other_lengths_and_pictures(shape):
    network = decoder(**SMALL)
    assert distance(joined(network, noise(*shape)), oracle(network, noise(*shape))) <= 1e-5


class Watched:
    """Every 3-D convolution's input and output, while a network decodes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.sizes: list[int] = []
        self.frames: list[int] = []
        monkeypatch.setattr(turbo_decoder, "conv3d", self.conv3d)

    def conv3d(self, x: mx.array, weight: mx.array, **settings: int) -> mx.array:
        y = convolution.conv3d(x, weight, **settings)
        self.sizes += [x.size, y.size]
        self.frames.append(y.shape[1])
        return y


def test_no_array_grows_with_the_window(monkeypatch):
    watched = Watched(monkeypatch)
    largest = []
    for window in (3, 9):
        watched.sizes = []
        joined(decoder(**SMALL, first_window=window, window=window), noise(12))
        largest.append(max(watched.sizes))
    picture = 16 * 24 * 8  # numbers in one frame of the widest level
    assert largest[0] == largest[1] <= 3 * picture
    assert set(watched.frames) == {1}


def test_frames_come_as_soon_as_they_are_decoded(monkeypatch):
    watched = Watched(monkeypatch)
    network = decoder(**SMALL)
    runs = network(noise(14))
    assert len(next(runs)) == 1
    before_first = len(watched.frames)
    assert [len(run) for run in runs] == [1] * 52
    assert before_first < len(watched.frames) / 4


def peak(runs: Iterator[mx.array]) -> int:
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    for run in runs:
        mx.eval(run)
        del run
    return mx.get_peak_memory() - before


def test_memory_does_not_grow_with_the_window():
    peaks = [
        peak(decoder(**SMALL, first_window=window, window=window)(noise(12, 4, 4))) for window in (3, 6, 12)
    ]
    assert peaks[2] < 1.1 * peaks[0]


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 24), (12, 12), (16, 17), (48, 32), (1, 40)])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3, 3), 1), ((3, 1, 1), 2), ((1, 1, 1), 1)])
def test_aligned_channels_change_nothing(inputs, outputs, kernel, stride):
    x = mx.random.normal((1, 5, 4, 6, inputs), key=mx.random.key(0))
    weight = mx.random.normal((outputs, *kernel, inputs), key=mx.random.key(1))
    plain, aligned = (
        convolution.conv3d(x, weight, stride, padding=kernel[1] // 2, aligned=aligned)
        for aligned in (False, True)
    )
    assert distance(aligned, plain) <= 1e-6
    assert distance(plain, mx.conv3d(x, weight, (stride, 1, 1), (0, *[kernel[1] // 2] * 2))) <= 1e-6


@pytest.mark.parametrize(
    ("channels", "aligned"),
    [((12, 160), (16, 160)), ((64, 12), (64, 12)), ((128, 24), (128, 32)), ((256, 512), (256, 512))],
)
def test_channels_are_those_of_metals_fast_way(channels, aligned):
    """Of outputs it takes any number up to 16."""
    inputs, outputs = channels
    x, weight = convolution.align(mx.zeros((1, 3, 2, 2, inputs)), mx.zeros((outputs, 3, 3, 3, inputs)))
    assert (weight.shape[-1], weight.shape[0]) == aligned
    assert x.shape[-1] == weight.shape[-1]


@pytest.mark.parametrize("gpu", [False, True])
def test_channels_are_aligned_on_a_gpu_only(monkeypatch, gpu):
    taken = []

    def align(x: mx.array, weight: mx.array) -> tuple[mx.array, mx.array]:
        taken.append(weight.shape)
        return x, weight

    monkeypatch.setattr(convolution, "on_gpu", lambda: gpu)
    monkeypatch.setattr(convolution, "align", align)
    convolution.conv3d(mx.zeros((1, 3, 2, 2, 8)), mx.zeros((8, 3, 3, 3, 8)), padding=1)
    assert len(taken) == gpu
