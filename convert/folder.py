"""Published checkpoints in, a model folder out: all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlx_happyhorse.errors import HubError, RequestError
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
from .write.job import Job, OnProgress, Part, tidy
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
    """Writes the model folder `out`; returns a line for everything that was left out or left unquantized.

    A source is a checkpoint's folder or file, or a folder of such, here or on the Hub (owner/name/folder),
    where only the bytes that are needed are read; `component=path` where a name does not tell an upscaler
    from a base model. It may also be a model folder of ours, to be quantized anew or dequantized. `variant`
    is "base" or "distill"; by default the transformer's folder name says it.

    Memory stays small whatever the sources' size: they are read a few megabytes at a time. What a run that
    was killed has done is not done again. Raises RequestError or ModelError, and then nothing is written.
    """
    out = expanded(out).absolute()
    tidy(out)
    if out.exists() and not overwrite:
        raise RequestError(f"{out} exists already: choose another folder, or --overwrite it.")
    if out.exists():
        _check_replaceable(out, map(_place, sources := list(sources)))
    if dequantize and quantization is not None:
        raise RequestError("quantize or dequantize, not both.")
    collection = collect(map(_place, sources), variant)
    before = _described_before(collection.found, quantization is None, dequantize)
    variant = variant or before.get("variant") or _variant(collection.found)
    parts, notes = prepare_parts(collection.found, dtype, quantization, recipe)
    Job(out, parts, variant, before, overwrite).run(on_progress)
    return collection.notes + notes


def prepare_parts(
    found: dict[str, Found], dtype: str, quantization: Quantization | None, recipe: str
) -> tuple[dict[str, Part], list[str]]:
    """What is to be written of every component, and notes on what is left unquantized."""
    parts: dict[str, Part] = {}
    notes: list[str] = []
    for name, (component, checkpoint) in found.items():
        prepared = prepare(component, dtype, quantization, recipe)
        source = checkpoint.source.origin() | {"path": str(checkpoint.path)}
        config = {"source": source} | prepared.config
        identity = checkpoint.source.identity(checkpoint.opened)
        parts[name] = Part(prepared._replace(config=config), beside(name, checkpoint), identity)
        notes += [f"left in full: {line}" for line in prepared.notes]
    return parts, list(dict.fromkeys(notes))  # upscalers are like their transformer


def beside(component: str, checkpoint: Checkpoint) -> dict[str, File]:
    """The files that a component needs besides its tensors."""
    return {TOKENIZER: checkpoint.beside(TOKENIZER)} if component == "text_encoder" else {}


def inspect(path: str | Path) -> tuple[list[Network], list[str]]:
    """The networks that checkpoints hold, from their headers alone, and notes on what is none.

    Raises RequestError if there is nothing, ModelError if something is damaged."""
    networks: list[Network] = []
    notes: list[str] = []
    for checkpoint in checkpoints(Folder(expanded(path))):
        held = read(checkpoint)
        for name, (config, tensors) in held.items():
            size = sum(tensor.source_bytes for tensor in tensors.values())
            networks.append(network(name, config | {"source": {"folder": checkpoint.label}}, size))
        if not held:
            notes.append(f"{checkpoint.label}: {len(checkpoint.names)} tensors of nothing that is known")
    if not networks and not notes:
        raise RequestError(f"{path} holds no checkpoint: no .safetensors, .ckpt or .pth file.")
    return networks, notes


def _check_replaceable(out: Path, places: Iterable[Place]) -> None:
    """Raises RequestError unless `out` is a model folder of ours or empty, and holds no source."""
    if not out.is_dir() or (any(out.iterdir()) and not (out / "config.json").is_file()):
        raise RequestError(f"{out} is no model folder: it is not overwritten.")
    if any(out.iterdir()):
        describe(out)
    for place in places:
        if Path(place.source.location).is_relative_to(out.resolve()):
            raise RequestError(f"{place} lies in {out}, which would be overwritten: choose another folder.")


def _place(source: str | Path) -> Place:
    label, equals, rest = str(source).partition("=")
    component, where = (label, rest) if equals and label in COMPONENTS else (None, str(source))
    path = expanded(where)
    owner, name, *under = (*where.split("/"), "")
    if path.exists() or not REPO.fullmatch(f"{owner}/{name}"):
        return Place(Folder(path), component=component)
    try:
        return Place(Repo(f"{owner}/{name}"), "/".join(under).strip("/"), component)
    except HubError as error:
        raise RequestError(f"{where} does not exist here. Taken for a repo: {error}") from error


def _described_before(found: dict[str, Found], plain: bool, dequantize: bool) -> dict[str, Any]:
    """What a model folder among the sources says of itself."""
    ours = [one.checkpoint for one in found.values() if is_converted(one.checkpoint)]
    if dequantize and not any("quantization" in ckpt.settings("type") for ckpt in ours):
        raise RequestError("nothing among the sources is quantized, so nothing can be dequantized.")
    if ours and plain and not dequantize:
        raise RequestError(f"{ours[0].label} is converted already: -q quantizes it anew, -d dequantizes it.")
    for ckpt in ours:
        folder = Path(ckpt.source.location) / ckpt.folder.parent
        if (folder / "config.json").is_file():
            return read_json(folder / "config.json")
    return {}


def _variant(found: dict[str, Found]) -> str:
    told = variant_of(found["transformer"].checkpoint) if "transformer" in found else None
    if told is None:
        raise RequestError("say with --variant base or --variant distill which transformer this is.")
    return told
