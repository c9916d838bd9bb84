"""3-D convolution in the form that Metal computes fast.

There MLX takes one apart into 2-D convolutions, several times faster, if it is given one clip, no padding
and no stride in depth, at most seven frames of kernel, input channels in multiples of 16, and output
channels likewise unless they are 16 or fewer (mlx/backend/metal/conv.cpp, `dispatch_conv_3D_gpu`).
"""

from __future__ import annotations

import mlx.core as mx

MULTIPLE = 16


def conv3d(
    x: mx.array, weight: mx.array, stride: int = 1, padding: int = 0, aligned: bool | None = None
) -> mx.array:
    """(1, frames, h, w, c) and (o, depth, kh, kw, c) → (1, (frames - depth) // stride + 1, h', w', o).

    `stride` is in depth, `padding` of zeros around the picture. `aligned` channels are filled up with
    zeros for Metal's sake; on a CPU that would be more work for nothing."""
    outputs = weight.shape[0]
    if on_gpu() if aligned is None else aligned:
        x, weight = align(x, weight)
    y = mx.conv3d(x, weight, (stride, 1, 1), (0, padding, padding))
    return y[..., :outputs]


def on_gpu() -> bool:
    return mx.default_device().type == mx.DeviceType.gpu


def align(x: mx.array, weight: mx.array) -> tuple[mx.array, mx.array]:
    """The same convolution with channels in such numbers as Metal's fast way takes."""
    outputs, inputs = weight.shape[0], weight.shape[-1]
    more_inputs = -inputs % MULTIPLE
    more_outputs = -outputs % MULTIPLE if outputs > MULTIPLE else 0
    if more_inputs or more_outputs:
        x = mx.pad(x, [(0, 0)] * 4 + [(0, more_inputs)])
        weight = mx.pad(weight, [(0, more_outputs), (0, 0), (0, 0), (0, 0), (0, more_inputs)])
    return x, weight
