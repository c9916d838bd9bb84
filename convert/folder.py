"""Published checkpoints in, a model folder out: all of it or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_happyhorse.errors import ModelError, RequestError
from mlx_happyhorse.files import written_beside
from mlx_happyhorse.hub import COMPONENTS
from mlx_happyhorse.precision import DTYPES
from mlx_happyhorse.version import __version__
from mlx_happyhorse.weights import build, check

from .checkpoint import Checkpoint
from .networks import Component, recognise
from .precision import Quantization, quantize, store_as

MAX_SHARD_BYTES = 5_000_000_000
SAMPLING: dict[str, dict[str, Any]] = {
    "base": {"steps": 32, "guidance": 5.0},
    "distill": {"steps": 8, "guidance": 1},
}
USUAL = {"seconds": 5, "width": 448, "height": 256, "upscale_steps": 5}
# The 1080p upscaler looks at the whole clip in every fourth layer only; its tensors do not show it.
GLOBAL_LAYERS_1080P = (3, 7, 11, 15, 19, 23, 27, 31)
UPSCALERS = {"540p": "upscaler_540p", "1080p": "upscaler_1080p"}
LICENCES = {"text_encoder": "Gemma Terms of Use", "audio_vae": "Stability AI Community License"}


class Source(NamedTuple):
    component: Component
    path: Path


def convert(
    sources: Iterable[str | Path],
    out: str | Path,
    *,
    variant: str | None = None,
    dtype: str = "bfloat16",
    quantization: Quantization | None = None,
) -> list[str]:
    """Writes the model folder `out`; returns a line for everything that was left out or left unquantized.

    A source is a checkpoint's folder or file, or `component=path` where its folder's name does not tell
    an upscaler from a base model. `variant` is "base" or "distill"; by default the transformer's folder
    name says it. Raises RequestError or ModelError, and then nothing is written.
    """
    out = Path(out)
    if dtype not in DTYPES:
        raise RequestError(f"dtype {dtype} is not known: choose one of {', '.join(DTYPES)}.")
    if out.exists():
        raise RequestError(f"{out} exists already: choose another folder, or move it away.")
    found, report = _collect(sources)
    settings = _top_config(found, variant)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{out} cannot be made there: {error.strerror}.") from error
    with written_beside(out) as folder:
        folder.mkdir()
        for name in list(found):
            component, path = found.pop(name)
            component = store_as(component, dtype)
            if quantization is not None:
                component, left_alone = quantize(component, quantization)
                report += [f"left in full: {line}" for line in left_alone]
            save_component(component, folder / name)
            if name == "text_encoder":
                shutil.copyfile(_tokenizer(path), folder / name / "tokenizer.json")
        write_json(folder / "config.json", settings)
    return report


def _collect(sources: Iterable[str | Path]) -> tuple[dict[str, Source], list[str]]:
    """All components, checked, their tensors not yet read."""
    found: dict[str, Source] = {}
    report: list[str] = []
    for label, path in map(_parse, sources):
        for name, component in _read(label, path).items():
            if name not in found:
                found[name] = Source(component, path)
                continue
            kinds = {found[name].component.config["type"], component.config["type"]}
            if kinds != {"turbo_decoder", "video_decoder"}:
                raise RequestError(
                    f"{path} and {found[name].path} both hold a {name}: give one, or name an upscaler "
                    f"as upscaler_540p={path}."
                )
            if component.config["type"] == "turbo_decoder":
                found[name] = Source(component, path)
            report.append("left out: the Wan VAE's decoder, the Turbo decoder takes its place")
    return found, report


def _parse(source: str | Path) -> tuple[str | None, Path]:
    label, equals, path = str(source).partition("=")
    if equals and label in COMPONENTS:
        return label, Path(path)
    return None, Path(source)


def _read(label: str | None, path: Path) -> dict[str, Component]:
    checkpoint = Checkpoint(path)
    components = recognise(checkpoint)(checkpoint)
    if checkpoint.tensors:
        raise ModelError(f"{path} has an unknown tensor {min(checkpoint.tensors)}.")
    for component in components.values():
        try:
            check(build(component.config), {k: v.shape for k, v in component.tensors.items()})
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
    if "transformer" in components and label in (None, "transformer", *UPSCALERS.values()):
        name = label or _upscaler_of(path) or "transformer"
        return {name: _as_upscaler(components["transformer"], name)}
    if label is not None and label not in components:
        raise RequestError(f"{path} is no {label}: it holds {' and '.join(components)}.")
    return components


def _upscaler_of(path: Path) -> str | None:
    """GAIR and FastVideo name the folders 540p_sr, sr_540p and the like."""
    for part in _names(path):
        for size, name in UPSCALERS.items():
            if "sr" in part and size in part:
                return name
    return None


def _names(path: Path) -> list[str]:
    """The names of a checkpoint and of the folder around it, which say what its tensors cannot."""
    path = path.resolve()
    return [path.name.lower(), path.parent.name.lower()]


def _as_upscaler(component: Component, name: str) -> Component:
    if name not in UPSCALERS.values():
        return component
    config = component.config | {"coordinates": "v1"}
    if name == "upscaler_1080p" and not config["local_layers"]:
        layers = range(config["num_layers"])
        config["local_layers"] = [i for i in layers if i not in GLOBAL_LAYERS_1080P]
    return Component(config, component.tensors)


def _top_config(found: dict[str, Source], variant: str | None) -> dict[str, Any]:
    if "transformer" in found and variant is None:
        names = _names(found["transformer"].path)
        variant = next((v for name in names for v in ("distill", "base") if v in name), None)
    if variant not in SAMPLING:
        raise RequestError("say with --variant base or --variant distill which transformer this is.")
    return {
        "family": "magihuman",
        "variant": variant,
        "components": sorted(found),
        "sampling": SAMPLING[variant] | USUAL,
        "sources": {name: source.path.name for name, source in found.items()},
        "licences": {name: LICENCES.get(name, "Apache-2.0") for name in found},
        "converter": __version__,
    }


def _tokenizer(path: Path) -> Path:
    file = (path if path.is_dir() else path.parent) / "tokenizer.json"
    if not file.is_file():
        raise ModelError(f"{path} lacks tokenizer.json, which the text encoder needs.")
    return file


def save_component(component: Component, folder: Path) -> None:
    folder.mkdir()
    write_json(folder / "config.json", component.config)
    shards = list(_shards(component.tensors))
    sizes = sum(t.nbytes for t in component.tensors.values())
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    names = names if len(shards) > 1 else ["model.safetensors"]
    index = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
    for name, keys in zip(names, shards, strict=True):
        shard = {key: component.tensors.pop(key) for key in keys}
        mx.save_safetensors(str(folder / name), shard, {"format": "mlx"})
    if len(names) > 1:
        values = {"metadata": {"total_size": sizes}, "weight_map": index}
        write_json(folder / "model.safetensors.index.json", values)


def _shards(tensors: dict[str, mx.array]) -> Iterator[list[str]]:
    keys: list[str] = []
    size = 0
    for key, tensor in tensors.items():
        if keys and size + tensor.nbytes > MAX_SHARD_BYTES:
            yield keys
            keys, size = [], 0
        keys.append(key)
        size += tensor.nbytes
    yield keys


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
