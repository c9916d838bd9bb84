"""Convert checkpoints to a model folder, which appears complete or not at all; inspect checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlx_happyhorse.errors import HubError, RequestError, argument
from mlx_happyhorse.files import expanded
from mlx_happyhorse.storage.hub import COMPONENTS, REPO, describe
from mlx_happyhorse.storage.inventory import Network, network
from mlx_happyhorse.storage.weights import read_json

from .layouts.collect import Found, Place, collect, read, variant_of
from .layouts.converted import is_converted
from .read.checkpoint import Checkpoint, checkpoints
from .read.repo import Repo
from .read.sources import Folder
from .read.tensors import File
from .write.job import Job, OnProgress, Target, tidy
from .write.quantization import Quantization, prepare

TOKENIZER = "tokenizer.json"


def convert(
    sources: Iterable[str | Path],
    out: str | Path,
    *,
    variant: str | None = None,
    dtype: str = "bfloat16",
    quantization: Quantization | None = None,
    recipe: str = "uniform",
    dequantize: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress = lambda progress: None,
) -> list[str]:
    """Write the model folder `out`; return one line for everything skipped or not quantized.

    A source is a checkpoint's folder or file, or a folder of checkpoints, local or on the Hub
    (owner/name/folder); of the Hub's files only the needed bytes are read. `component=path` marks an upscaler
    whose folder name does not show it. A model folder is a source too, to requantize or dequantize it.
    `variant` is "base" or "distill"; by default it is taken from the transformer's folder name.

    Sources are read in chunks of a few megabytes, so memory stays small. A run that was stopped is resumed by
    the same call. Raise RequestError or ModelError, and then write nothing."""
    out = expanded(out).absolute()
    tidy(out)
    if out.exists() and not overwrite:
        raise RequestError(
            f"{out} already exists: choose another folder, or pass {argument('overwrite')} to replace it."
        )
    if out.exists():
        _check_replaceable(out, map(_place, sources := list(sources)))
    if dequantize and quantization is not None:
        raise RequestError(f"{argument('quantization')} and {argument('dequantize')} cannot be combined.")
    collection = collect(map(_place, sources), variant)
    before = _existing_config(collection.found, quantization is None, dequantize)
    variant = variant or before.get("variant") or _detect_variant(collection.found)
    targets, notes = prepare_targets(collection.found, dtype, quantization, recipe)
    Job(out, targets, variant, before, overwrite).run(on_progress)
    return collection.notes + notes


def prepare_targets(
    found: dict[str, Found], dtype: str, quantization: Quantization | None, recipe: str
) -> tuple[dict[str, Target], list[str]]:
    """Return what to write of each component, and a note for every layer that is not quantized.

    Raise RequestError for an unknown dtype or recipe."""
    targets: dict[str, Target] = {}
    notes: list[str] = []
    for name, (component, checkpoint) in found.items():
        prepared = prepare(component, dtype, quantization, recipe)
        source = checkpoint.source.origin() | {"path": str(checkpoint.path)}
        config = {"source": source} | prepared.config
        identity = checkpoint.source.identity(checkpoint.opened)
        targets[name] = Target(prepared._replace(config=config), extra_files(name, checkpoint), identity)
        notes += [f"not quantized: {line}" for line in prepared.notes]
    return targets, list(dict.fromkeys(notes))  # an upscaler repeats the transformer's notes


def extra_files(component: str, checkpoint: Checkpoint) -> dict[str, File]:
    """Return the files that a component needs besides its tensors. Raise ModelError if one is missing."""
    return {TOKENIZER: checkpoint.sibling(TOKENIZER)} if component == "text_encoder" else {}


def inspect(path: str | Path) -> tuple[list[Network], list[str]]:
    """Return the networks in checkpoints, and a note for every unknown file; only headers are read.

    Raise RequestError if there is no checkpoint, ModelError if one is damaged."""
    networks: list[Network] = []
    notes: list[str] = []
    for checkpoint in checkpoints(Folder(expanded(path))):
        components = read(checkpoint)
        for name, (config, tensors) in components.items():
            size = sum(tensor.source_bytes for tensor in tensors.values())
            networks.append(network(name, config | {"source": {"folder": checkpoint.label}}, size))
        if not components:
            notes.append(f"{checkpoint.label}: no known network among its tensors ({len(checkpoint.names)})")
    if not networks and not notes:
        raise RequestError(f"there is no checkpoint in {path}: no .safetensors, .ckpt or .pth file.")
    return networks, notes


def _check_replaceable(out: Path, places: Iterable[Place]) -> None:
    """Raise RequestError unless `out` is a model folder or empty, and contains no source."""
    if not out.is_dir() or (any(out.iterdir()) and not (out / "config.json").is_file()):
        raise RequestError(f"{out} is not a model folder and will not be overwritten.")
    if any(out.iterdir()):
        describe(out)
    for place in places:
        if Path(place.source.location).is_relative_to(out.resolve()):
            raise RequestError(f"{place} is inside {out}, which would be overwritten: choose another folder.")


def _place(source: str | Path) -> Place:
    """Return the place that [component=]path or [component=]owner/name[/folder] names."""
    label, equals, rest = str(source).partition("=")
    component, where = (label, rest) if equals and label in COMPONENTS else (None, str(source))
    path = expanded(where)
    owner, name, *under = (*where.split("/"), "")
    if path.exists() or not REPO.fullmatch(f"{owner}/{name}"):
        return Place(Folder(path), component=component)
    try:
        return Place(Repo(f"{owner}/{name}"), "/".join(under).strip("/"), component)
    except HubError as error:
        raise RequestError(f"{where} is not a local path. As a Hub repo: {error}") from error


def _existing_config(found: dict[str, Found], plain: bool, dequantize: bool) -> dict[str, Any]:
    """Return the top config.json of a model folder among the sources, or else {}.

    Raise RequestError if there is nothing to change in it, or nothing to dequantize."""
    ours = [one.checkpoint for one in found.values() if is_converted(one.checkpoint)]
    if dequantize and not any("quantization" in ckpt.settings("type") for ckpt in ours):
        raise RequestError("no source is quantized: there is nothing to dequantize.")
    if ours and plain and not dequantize:
        raise RequestError(
            f"{ours[0].label} is already converted: pass {argument('quantization')} to requantize it, "
            f"or {argument('dequantize')} to dequantize it."
        )
    for ckpt in ours:
        folder = Path(ckpt.source.location) / ckpt.folder.parent
        if (folder / "config.json").is_file():
            return read_json(folder / "config.json")
    return {}


def _detect_variant(found: dict[str, Found]) -> str:
    detected = variant_of(found["transformer"].checkpoint) if "transformer" in found else None
    if detected is None:
        raise RequestError(f"cannot tell base from distill: pass {argument('variant')}.")
    return detected
