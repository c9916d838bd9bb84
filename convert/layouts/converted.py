"""Read components of a converted model folder, to requantize or dequantize them."""

from __future__ import annotations

import mlx.nn as nn

from mlx_happyhorse.storage.weights import NETWORKS, build

from ..read.checkpoint import Checkpoint
from ..read.tensors import Tensor
from ..write.quantization import Quantization
from .published import Component


def is_converted(ckpt: Checkpoint) -> bool:
    """Return whether a checkpoint is a component of a model folder, by its config.json."""
    return ckpt.settings("type").get("type") in NETWORKS


def converted(ckpt: Checkpoint) -> dict[str, Component]:
    """Return the component under its folder's name; quantized matrices are dequantized.

    Raise ModelError if tensors are missing."""
    config = ckpt.settings("type")
    tensors = {}
    for path, layer in build(config).named_modules():
        if isinstance(layer, nn.QuantizedLinear | nn.QuantizedEmbedding):
            how = Quantization(layer.bits, layer.group_size, layer.mode)
            stored = ckpt.take_together(*(f"{path}.{part}" for part in how.parts))
            tensors[f"{path}.weight"] = Tensor.of(*stored, transform=how.dequantize)
    tensors |= {name: ckpt.take(name) for name in ckpt.names}
    plain = {key: value for key, value in config.items() if key != "quantization"}
    return {ckpt.folder.name: Component(plain, tensors)}
