"""3-D convolution in the form that Metal computes fast.

There MLX splits one into 2-D convolutions, several times faster, if it is given one clip, no padding and no
stride in depth, a kernel of at most seven frames, input channels in multiples of 16, and output channels
likewise unless they are 16 or fewer (mlx/backend/metal/conv.cpp, `dispatch_conv_3D_gpu`).
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

MULTIPLE = 16  # of channels, see above


def conv3d(
    x: mx.array, weight: mx.array, stride: int = 1, padding: int = 0, aligned: bool | None = None
) -> mx.array:
    """Convolve (1, frames, h, w, c) with (o, depth, kh, kw, c).

    Return (1, (frames - depth) // stride + 1, h', w', o). `stride` is in depth; `padding`, with zeros, in
    height and width. With `aligned`, by default on a GPU, channels are padded with zeros for Metal's fast
    form; on a CPU that would only be more work."""
    outputs = weight.shape[0]
    if on_gpu() if aligned is None else aligned:
        x, weight = align(x, weight)
    y = mx.conv3d(x, weight, (stride, 1, 1), (0, padding, padding))
    return y[..., :outputs]


def on_gpu() -> bool:
    return mx.default_device().type == mx.DeviceType.gpu


def align(x: mx.array, weight: mx.array) -> tuple[mx.array, mx.array]:
    """Pad the channels of a convolution with zeros, to the numbers that Metal's fast form takes."""
    outputs, inputs = weight.shape[0], weight.shape[-1]
    more_inputs = -inputs % MULTIPLE
    more_outputs = -outputs % MULTIPLE if outputs > MULTIPLE else 0
    if more_inputs or more_outputs:
        x = mx.pad(x, [(0, 0)] * 4 + [(0, more_inputs)])
        weight = mx.pad(weight, [(0, more_outputs), (0, 0), (0, 0), (0, 0), (0, more_inputs)])
    return x, weight


class Convolution(NamedTuple):
    """The size of one convolution: it computes `frames` of `pixels` each, from `inputs` channels to
    `outputs`, with a kernel of `taps` pixels and `depth` frames."""

    pixels: int
    frames: int
    inputs: int
    outputs: int
    taps: int = 9
    depth: int = 3

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs * self.taps * self.depth

    @property
    def flops(self) -> float:
        """Floating point operations for one frame."""
        return 2.0 * self.pixels * self.weights

    @property
    def cached(self) -> int:
        """Elements of the two past frames that a temporal convolution caches for the next chunk."""
        return 2 * self.pixels * self.inputs if self.depth > 1 else 0
