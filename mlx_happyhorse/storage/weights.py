"""A component's folder: config.json and safetensors beside it ↔ an MLX module."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from typing import cast as typed

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import ModelError
from ..models.audio_vae import AudioVAE, AudioVAEConfig
from ..models.config import Config
from ..models.matmul import UNLIMITED, Work
from ..models.text_encoder import TextEncoder, TextEncoderConfig
from ..models.transformer import Transformer, TransformerConfig, keep_resident, no_restart
from ..models.turbo_decoder import TurboDecoder, TurboDecoderConfig
from ..models.video_vae import VideoDecoder, VideoEncoder, VideoVAEConfig
from ..runtime.streaming import Unit, WeightStreamer, budget, reading_stream
from ..runtime.threads import end_with_thread
from .checksums import SUMS
from .dtypes import DTYPES, cast, is_cast
from .safetensors import header_of

NETWORKS: dict[str, tuple[Callable[[Any], nn.Module], type[Config]]] = {
    "transformer": (Transformer, TransformerConfig),
    "text_encoder": (TextEncoder, TextEncoderConfig),
    "video_encoder": (VideoEncoder, VideoVAEConfig),
    "video_decoder": (VideoDecoder, VideoVAEConfig),
    "turbo_decoder": (TurboDecoder, TurboDecoderConfig),
    "audio_vae": (AudioVAE, AudioVAEConfig),
}

INDEX = "model.safetensors.index.json"
PROBES, PROBE_BYTES = 256, 4096  # samples of each file for the fingerprint: 1 MiB


def build(config: dict[str, Any]) -> nn.Module:
    """Return a network with the layers and shapes that `config` describes, quantized ones included.

    Raise ModelError if that is impossible."""
    end_with_thread()
    try:
        network, dimensions = NETWORKS[config["type"]]
        model = network(dimensions.from_dict(config))
        if quantization := config.get("quantization"):
            _quantize(model, quantization)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = f"{type(error).__name__}: {error}".strip().split("\n")[0]
        raise ModelError(f"its config.json does not describe a known network ({what}).") from error
    mx.eval(mx.random.state)  # initial weights are drawn from it: lazy draws would accumulate
    return model


def _quantize(model: nn.Module, quantization: dict[str, Any]) -> None:
    """Quantize layers as mlx-lm's block says: defaults, and by path either other settings or false."""

    def settings(path: str, layer: nn.Module) -> bool | dict[str, Any]:
        return hasattr(layer, "to_quantized") and quantization.get(path, True)

    defaults = {k: quantization[k] for k in ("group_size", "bits", "mode") if k in quantization}
    nn.quantize(model, **defaults, class_predicate=settings)


def load(
    folder: Path, dtype: mx.Dtype | None = None, *, work: Work = UNLIMITED, streamed: bool = False
) -> Any:
    """Load the network in `folder`, with lazy weights, which are read from disk when they are used.

    `dtype` replaces the one that its large matrices are computed in; others stay in fp32. A transformer or
    text encoder splits its `work`, and with `streamed` reads its weights again for every pass. Raise
    ModelError."""
    config = read_json(folder / "config.json")

    def read(stream: mx.Stream | None = None) -> dict[str, mx.array]:
        return cast(config["type"], _read(folder, stream), dtype or stored(config), stream)

    try:
        model = build(config)
        weights = read()
        check(model, {k: w.shape for k, w in weights.items()})
    except ModelError as error:
        raise ModelError(f"{folder} cannot be used: {error}") from error
    model.load_weights(list(weights.items()), strict=True)
    if isinstance(model, Transformer):
        model.dtype = dtype or stored(config)
    if isinstance(model, Transformer | TextEncoder):
        model.work = work
        if streamed:
            units = [Unit(*unit) for unit in model.units()]
            streamer = WeightStreamer(units, read, repeatedly=isinstance(model, Transformer))
            model.offload, model.restart = streamer.offload, streamer.restart
    model.eval()
    return model


def release(model: nn.Module) -> None:
    """Free a network's weights, even where something still refers to the network."""
    if isinstance(model, Transformer | TextEncoder) and model.offload is not keep_resident:
        model.offload, model.restart = keep_resident, no_restart
        mx.synchronize(reading_stream())  # weights that are being prefetched would outlive the network
    model.clear()


def check(model: nn.Module, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise ModelError for the first missing, unknown or misshapen tensor."""
    expected = {name: tensor.shape for name, tensor in parameters(model).items()}
    for problem, names in (
        ("lacks", expected.keys() - shapes.keys()),
        ("has an unknown", shapes.keys() - expected.keys()),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(f"the checkpoint {problem} tensor {min(names)}{more}.")
    for name, shape in expected.items():
        if tuple(shapes[name]) != tuple(shape):
            raise ModelError(f"tensor {name} is {tuple(shapes[name])}, expected {tuple(shape)}.")


def parameters(model: nn.Module) -> dict[str, mx.array]:
    """Return a network's tensors by their dotted names."""
    return typed(dict[str, mx.array], tree_flatten(model.parameters(), destination={}))


class Footprint(NamedTuple):
    """Bytes that a network's weights take in memory: by tensor, and of each unit that is streamed together,
    (module path, bytes) in the order of their use."""

    tensors: dict[str, int]
    units: list[tuple[str, int]]

    @property
    def bytes(self) -> int:
        return sum(self.tensors.values())

    @property
    def streamed_bytes(self) -> int:
        """Peak memory of the weights where the units are streamed."""
        return self.bytes - sum(size for _, size in self.units) + budget(self.units)

    def part(self, prefix: str) -> int:
        """Return the bytes of the tensors whose names start with `prefix`."""
        return sum(size for name, size in self.tensors.items() if name.startswith(prefix))


def footprint(config: dict[str, Any], dtype: mx.Dtype | None = None) -> Footprint:
    """Return what a network's weights take, from its config alone; `dtype` as for `load`."""
    model, computed = build(config), dtype or stored(config)

    def itemsize(name: str, tensor: mx.array) -> int:
        casts = is_cast(config["type"], name) and mx.issubdtype(tensor.dtype, mx.floating)
        return computed.size if casts else tensor.itemsize

    tensors = {name: tensor.size * itemsize(name, tensor) for name, tensor in parameters(model).items()}
    units = [Unit(*unit) for unit in model.units()] if isinstance(model, Transformer | TextEncoder) else []
    return Footprint(tensors, [(unit.path, sum(tensors[name] for name in unit.slots())) for unit in units])


def stored(config: dict[str, Any]) -> mx.Dtype:
    """Return the dtype in which a network is stored, and by default computes. Raise ModelError."""
    name = str(config.get("dtype", "float32"))
    if name not in DTYPES:
        raise ModelError(f"its dtype {name!r} is unknown.")
    return DTYPES[name]


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object. Raise ModelError if that is impossible."""
    try:
        values = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} does not hold a JSON object.")
    return values


def read_tensors(file: Path, stream: mx.Stream | None = None) -> dict[str, mx.array]:
    """Return a safetensors file's tensors, lazy. Raise ModelError for any other file."""
    header_of(file)
    try:
        return typed(dict[str, mx.array], mx.load(str(file), format="safetensors", stream=stream))
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{file.name} is damaged or not a safetensors file: {error}.") from error


def fingerprint(folder: Path) -> str:
    """Return a name for the weights in a component's folder: a hash of its checksums or, where it has none,
    of its config and of sizes and samples of its files, as reading 30 GB would take too long."""
    if (folder / SUMS).is_file():
        return hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()[:16]
    seen = hashlib.sha256()
    for name in ("config.json", "tokenizer.json"):
        if (folder / name).is_file():
            seen.update((folder / name).read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        seen.update(f"{file.name} {size}".encode())
        with file.open("rb") as data:
            for i in range(PROBES):
                data.seek(i * max(size - PROBE_BYTES, 0) // (PROBES - 1))
                seen.update(data.read(PROBE_BYTES))
    return seen.hexdigest()[:16]


def _read(folder: Path, stream: mx.Stream | None = None) -> dict[str, mx.array]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError("it has no .safetensors file.")
    weights: dict[str, mx.array] = {}
    for file in files:
        weights |= read_tensors(file, stream)
    return weights
