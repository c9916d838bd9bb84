"""Print what each way to quantize the transformer costs: its size, and how far it leads the output astray.

python benchmarks/quantization.py [--quick]     (some minutes on two cores; --quick: seconds)

Sizes are those of the published 40 layers. Errors are relative, beside the same weights in bf16, all computed
in fp32 so that nothing else differs: of the golden network's velocity and final latents (8 distilled steps;
32 base steps with guidance), of the velocity of small networks as deep as the published one, their columns
scaled by random factors as in trained weights, and of what one full-size layer adds to its input. All weights
are random: this shows what holds for the architecture, not for one training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import helpers.openblas  # noqa: F401  before MLX
import mlx.core as mx
import numpy as np
from helpers.golden_cases import FOLDER, Case, latents, transformer

from mlx_happyhorse.convert.layouts.published import Component
from mlx_happyhorse.convert.write.quantization import RECIPES, Format, Prepared, Quantization, prepare
from mlx_happyhorse.diffusion import sampling
from mlx_happyhorse.diffusion.sequence import coordinates, rotation
from mlx_happyhorse.models.transformer import Expert, Transformer, TransformerConfig, attend
from mlx_happyhorse.storage.dtypes import LARGE, cast
from mlx_happyhorse.storage.weights import build, parameters

OUTLIERS, DEEP_SEEDS = 0.5, 2  # spread of the columns' factors, and how many deep networks have them
GELU, SHARED = 0, 20  # layers that stand for their kind: an expert of the last four is as a shared one
NARROW = TransformerConfig(hidden_size=256, num_heads=2, num_kv_heads=1, gelu_size=512, swiglu_size=384)
LARGE_OF = {True: ("qkv", "proj", "up", "down"), False: ("qkv", "proj", "gate_up", "down")}

Tensors = dict[str, Any]  # arrays, by name
Errors = np.ndarray  # relative, one of each output


@dataclass(frozen=True)
class Way:
    """One way to store a transformer."""

    quantization: Quantization | None
    recipe: str = "uniform"

    def __str__(self) -> str:
        how = self.quantization
        if how is None:
            return "bfloat16"
        name = f"{how.bits} bits, group {how.group_size}" if how.mode == "affine" else how.mode
        return name if self.recipe == "uniform" else f"{name}, {self.recipe}"

    def prepare(self, config: dict[str, Any], tensors: Tensors) -> Prepared:
        return prepare(Component(config, tensors), "bfloat16", self.quantization, self.recipe)


def ways() -> Iterator[Way]:
    yield Way(None)
    for bits in (8, 6, 5, 4, 3, 2):
        yield Way(Quantization(bits, 64))
    yield Way(Quantization(4, 32))
    for recipe in RECIPES.keys() - {"uniform"}:
        yield Way(Quantization(4, 64), recipe)
    for mode in ("mxfp8", "nvfp4", "mxfp4"):
        yield Way(Quantization(mode=mode))


@cache
def full() -> tuple[dict[str, Any], Tensors]:
    """The published network; its weights are never computed."""
    config = {"type": "transformer", **TransformerConfig().to_dict()}
    return config, parameters(build(config))


def stored_bytes(way: Way) -> int:
    config = way.prepare(*full()).config
    return sum(t.nbytes for t in cast("transformer", parameters(build(config)), mx.bfloat16).values())


def with_outliers(weight: np.ndarray, rng: np.random.Generator) -> mx.array:
    """Columns multiplied by random factors, and all by another that leaves the norm as it was."""
    factors = np.exp(OUTLIERS * rng.standard_normal(weight.shape[1])).astype(np.float32)
    factors *= np.linalg.norm(weight) / np.linalg.norm(weight * factors)
    return mx.array(weight * factors).astype(mx.bfloat16)


class Network:
    """A transformer whose outputs are compared with those of the same weights in 16 bits."""

    def __init__(self, model: Transformer, outputs: Callable[[Transformer], Iterable[mx.array]]):
        self.model, self.outputs = model, outputs
        self.config = {"type": "transformer", **model.config.to_dict()}
        self.tensors = parameters(model)
        self.exact = self.run(Way(None))

    def errors(self, way: Way) -> Errors:
        return np.array([distance(a, b) for a, b in zip(self.run(way), self.exact, strict=True)])

    def run(self, way: Way) -> list[np.ndarray]:
        formats = way.prepare(self.config, self.tensors).formats
        rounded = {name: as_stored(name, t, formats[name]) for name, t in self.tensors.items()}
        self.model.load_weights(list(rounded.items()))
        return [np.array(x) for x in self.outputs(self.model)]


def deep(seed: int) -> Network:
    """As many layers as published, of random weights with outliers: its velocity."""
    heads = TransformerConfig(hidden_size=192, num_heads=6, num_kv_heads=2, head_dim=32)
    model = Transformer(replace(heads, text_channels=224, gelu_size=768, swiglu_size=512))
    model.dtype = mx.float32
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}
    for name, tensor in parameters(model).items():
        if tensor.ndim > 1:
            weight = rng.standard_normal(tensor.shape, np.float32) / tensor.shape[1] ** 0.5
            large = LARGE["transformer"].fullmatch(name.removesuffix(".weight"))
            tensor = with_outliers(weight, rng) if large else mx.array(weight)
        tensors[name] = tensor
    model.load_weights(list(tensors.items()))
    shapes = (3, 4, 6, 48), (9, 64), (7, 224)
    video, audio, text = (mx.array(rng.standard_normal(shape, np.float32)) for shape in shapes)
    return Network(model, lambda model: sampling.Velocity(model)(video, audio, text))


def golden(steps: tuple[int, int]) -> Network:
    """The reference's network of six layers: velocity, and final latents after so many distilled and base
    steps."""
    base, distill = (
        Case(FOLDER / f"transformer.{name}.safetensors") for name in ("t2v-base", "ti2v-distill")
    )

    def outputs(model: Transformer) -> Iterator[mx.array]:
        for pair in zip(velocity(model, base), velocity(model, distill), strict=True):
            yield mx.concatenate([x.reshape(-1) for x in pair])
        yield from final(model, distill, steps[0], draw=distill.draw(), image=latents(distill["in.image"]))
        negative = latents(base["in.negative_text"])
        yield from final(model, base, steps[1], negative_text=negative, guidance=sampling.Guidance())

    return Network(transformer(base, "float32"), outputs)


def velocity(model: Transformer, case: Case) -> tuple[mx.array, mx.array]:
    video, audio, text = (latents(case[f"in.{name}"]) for name in ("video", "audio", "text"))
    return sampling.Velocity(model)(video, audio, text)


def final(model: Transformer, case: Case, steps: int, **settings: Any) -> tuple[mx.array, mx.array]:
    text, video, audio = (latents(case[f"in.{name}"]) for name in ("text", "video", "audio"))
    *_, last = sampling.denoise(model, text, video, audio, steps=steps, **settings)
    return last.video, last.audio


def as_stored(name: str, tensor: mx.array, form: Format) -> mx.array:
    """What the network will multiply with, in fp32."""
    return form.decode(name, form.encode(name, tensor)).astype(mx.float32)


def distance(x: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(x - exact) / np.linalg.norm(exact))


class Layer:
    """One expert of the published size, or of another, with 64 tokens before it."""

    def __init__(self, layer: int, config: TransformerConfig):
        self.layer, self.rng = layer, np.random.default_rng(layer)
        self.expert = Expert(config, gelu=layer in config.gelu_layers)
        self.names = LARGE_OF[layer in config.gelu_layers]
        self.weights = {name: self.draw(self.expert[name].weight.shape) for name in self.names}
        self.expert.gate.weight = self.draw(self.expert.gate.weight.shape).astype(mx.float32)
        tokens = self.rng.standard_normal((64, config.hidden_size), np.float32)
        self.x = with_outliers(tokens, self.rng).astype(mx.float32)
        self.rope = rotation(coordinates((3, 4, 4), 9, 7, "v2"), config.rope_bands)
        self.exact = self.run([Format(mx.bfloat16)] * len(self.names))

    def draw(self, shape: tuple[int, ...]) -> mx.array:
        weight = self.rng.standard_normal(shape, np.float32)
        weight *= 0.02
        return with_outliers(weight, self.rng)

    def errors(self, way: Way) -> Errors:
        """Of what attention adds, of what the MLP adds, and of both together."""
        formats = way.prepare(*full()).formats
        chosen = [formats[f"layers.{self.layer}.experts.0.{name}.weight"] for name in self.names]
        return np.array([distance(a, b) for a, b in zip(self.run(chosen), self.exact, strict=True)])

    def run(self, formats: Iterable[Format]) -> list[np.ndarray]:
        for name, form in zip(self.names, formats, strict=True):
            self.expert[name].weight = as_stored("weight", self.weights[name], form)
        q, k, v, gate = self.expert.project(self.x, *self.rope, mx.float32)
        attention = self.expert.merge(attend(q, k, v), gate)
        mlp = self.expert.mlp(self.x + attention, mx.float32)
        return [np.array(x) for x in (attention, mlp, attention + mlp)]


def root_mean_square(errors: Iterable[Errors]) -> Errors:
    return np.sqrt(np.mean(np.square(list(errors)), axis=0))


def columns(errors: Errors) -> str:
    """Velocity of video and of audio; final latents, both together, distilled and base."""
    finals = (root_mean_square(pair) for pair in (errors[2:4], errors[4:6]))
    return "".join(f"{e:8.4f}" for e in (*errors[:2], *finals))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args(arguments).quick
    size = NARROW if quick else TransformerConfig()
    shallow = golden((1, 2) if quick else (8, 32))
    deeper = [deep(seed) for seed in range(1 if quick else DEEP_SEEDS)]
    layers = [Layer(layer, size) for layer in (GELU, SHARED)]
    parameter_count = sum(t.size for t in full()[1].values())
    print(f"{'':52}{'golden, 6 layers':36}{'40 layers':16}full-size layer")
    print(f"{'':30}{'size':>10}{'bits':>7}     video   audio 8 steps      32   video   audio    GELU  SwiGLU")
    for way in islice(ways(), 2 if quick else None):
        stored = stored_bytes(way)
        line = f"{way!s:30}{stored / 1e9:7.2f} GB{8 * stored / parameter_count:7.2f}  "
        if way.quantization is not None:
            velocities = root_mean_square(network.errors(way) for network in deeper)
            updates = [layer.errors(way)[-1] for layer in layers]
            line += columns(shallow.errors(way)) + "".join(f"{e:8.4f}" for e in (*velocities, *updates))
        print(line, flush=True)


if __name__ == "__main__":
    main()
