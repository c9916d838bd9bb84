"""Download a published model: convert it while it is read from the Hub, without storing its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from mlx_happyhorse.errors import NoRevision, RequestError, argument
from mlx_happyhorse.files import expanded, home
from mlx_happyhorse.runtime.waiting import OnWait
from mlx_happyhorse.storage import hub
from mlx_happyhorse.storage.weights import read_json

from .folder import prepare_targets
from .layouts.collect import Place, collect
from .read.repo import Repo
from .write.card import licence
from .write.job import Job, OnProgress, Progress, Target, describe, tidy, work_folder
from .write.quantization import Quantization

USUAL = ("transformer", "text_encoder", "video_encoder", "video_decoder", "audio_vae")


@dataclass(frozen=True)
class Planned:
    """A component to download: its repo and licence, and its size in bytes as fetched and as stored."""

    component: str
    repo: str
    fetched: int
    stored: int
    licence: str
    gated: bool


OnPlan = Callable[[list[Planned]], None]


def download(
    name: str,
    out: str | Path | None = None,
    *,
    components: Iterable[str] = USUAL,
    dtype: str = "bfloat16",
    quantization: Quantization | None = None,
    recipe: str = "uniform",
    dry_run: bool = False,
    on_plan: OnPlan = lambda plan: None,
    on_progress: OnProgress = lambda progress: None,
) -> Path:
    """Write the model folder of a published model and return it; `out` defaults to `home()`/name-precision.

    Components already in the folder are kept; those that a model beside it has too are hard-linked. `on_plan`
    receives the components to download, before the first is fetched; with `dry_run` nothing is.

    `on_progress` is called a few times a second, even while no bytes arrive; its `total` is 0 while the Hub
    is asked for file lists and headers. An exception from it (`Stopped`, for example) ends the download.
    Whatever ends it, finished work is kept and the same call resumes. Raise RequestError, HubError or
    ModelError."""
    published = _published(name, tuple(components))
    out = home() / f"{name}-{_suffix(dtype, quantization)}" if out is None else expanded(out).absolute()
    missing = {part: place for part, place in published.items() if not (out / part / "config.json").exists()}
    tidy(out)
    before = hub.describe(out) if out.exists() else {}
    if before:
        _check_same(out, name, dtype, quantization)
    if not missing:
        if published.keys() - set(before["components"]):  # a run was killed before it wrote this
            describe(out, before["variant"], before)
        return out
    with ExitStack() as stack:
        repos = _open_all(missing.values(), out, lambda: on_progress(Progress("", 0, 0)))
        for repo in repos.values():
            stack.callback(repo.close)
        collection = collect(Place(repos[place.repo], place.under, part) for part, place in missing.items())
        targets, _ = prepare_targets(collection.found, dtype, quantization, recipe)
        on_plan([_planned(part, targets[part], repos[missing[part].repo]) for part in missing])
        for repo in repos.values():
            repo.on_wait = None  # the job reads in several threads and reports progress itself
        if not dry_run:
            Job(out, targets, name.rpartition("-")[2], before, add=bool(before)).run(on_progress)
    return out


def _published(name: str, components: tuple[str, ...]) -> dict[str, hub.Published]:
    """Return where a model's components are published. Raise RequestError for unknown names."""
    if name.lower() in hub.UNPUBLISHED:
        raise RequestError(hub.UNPUBLISHED[name.lower()])
    if name not in hub.PUBLISHED:
        raise RequestError(
            f"unknown model {name!r}: give {', '.join(hub.PUBLISHED)}, or a Hub repo of a converted model."
        )
    published = hub.PUBLISHED[name]
    if unknown := [part for part in components if part not in published]:
        raise RequestError(f"unknown component {unknown[0]!r}: choose from {', '.join(published)}.")
    return {part: published[part] for part in components}


def _revisions(out: Path) -> dict[str, str]:
    """Return the commit by repo that this model, or another one beside it, was made from.

    A resumed or extended model needs the same commit; with it, components can be shared."""
    configs = [*out.parent.glob("*/*/config.json"), *work_folder(out).glob("*.json")]
    found: dict[str, str] = {}
    for config in configs:  # the unfinished run comes last, and takes precedence
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):  # damaged or not ours
            values = json.loads(config.read_text())
            source = (values[1] if isinstance(values, list) else values)["source"]
            found[source["repo"]] = source["revision"]
    return found


def _open_all(places: Iterable[hub.Published], out: Path, on_wait: OnWait) -> dict[str, Repo]:
    """Return the repos of these places by name, at the commits used before."""
    revisions = _revisions(out)
    return {name: _open(name, revisions.get(name), on_wait) for name in {place.repo for place in places}}


def _open(repo: str, revision: str | None, on_wait: OnWait) -> Repo:
    try:
        return Repo(repo, revision, on_wait)
    except NoRevision:  # it is gone from the Hub: use the latest
        return Repo(repo, None, on_wait)


def _check_same(out: Path, name: str, dtype: str, quantization: Quantization | None) -> None:
    """Raise RequestError if `out` holds another model, or this one in another precision."""
    config = hub.describe(out)
    requested = {"dtype": dtype} if quantization is None else quantization.settings()
    for component in ("transformer", "text_encoder"):
        own = read_json(out / component / "config.json") if (out / component).is_dir() else None
        stored = own and own.get("quantization", {"dtype": own.get("dtype")})
        if component == "text_encoder" and requested.get("dtype") == "float16":
            continue  # it is stored in bfloat16
        if stored and any(stored.get(key) != value for key, value in requested.items()):
            raise RequestError(f"{out} has another precision: choose another folder with {argument('out')}.")
    if not name.endswith(config["variant"]):
        raise RequestError(
            f"{out} is a {config['variant']} model: choose another folder with {argument('out')}."
        )


def _suffix(dtype: str, quantization: Quantization | None) -> str:
    """Return the precision in a folder's name: bf16, 4bit, mxfp4."""
    if quantization is None:
        return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(dtype, dtype)
    return f"{quantization.bits}bit" if quantization.mode == "affine" else quantization.mode


def _planned(component: str, target: Target, repo: Repo) -> Planned:
    extra = sum(file.size for file in target.extra_files.values())
    fetched, stored = target.source_bytes + extra, target.stored_bytes + extra
    return Planned(component, repo.name, fetched, stored, licence(component)[0], repo.gated)
