"""Published weights straight from the Hub into a model folder: their own files are never kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from mlx_happyhorse.errors import NoRevision, RequestError
from mlx_happyhorse.files import expanded, home
from mlx_happyhorse.runtime.waiting import OnWait
from mlx_happyhorse.storage import hub
from mlx_happyhorse.storage.weights import read_json

from .folder import prepare_parts
from .layouts.collect import Place, collect
from .read.repo import Repo
from .write.card import licence
from .write.job import Job, OnProgress, Part, Progress, describe, tidy, work_beside
from .write.quantization import Quantization

USUAL = ("transformer", "text_encoder", "video_encoder", "video_decoder", "audio_vae")


@dataclass(frozen=True)
class Planned:
    """A component that will be fetched: from where, how many bytes of it, into how many, and its licence."""

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
    """Makes the model folder of a published model, `home()`/name-precision unless `out` is another.

    Components that are there already stay, those that another model beside it shares are linked. Before
    the first is fetched `on_plan` is shown all; with `dry_run` that is the end.

    `on_progress` is called a few times a second, also while no bytes come; its `total` is 0 while the Hub is
    asked what there is. It ends the download by raising, `Stopped` say, and what is done is kept: however a
    run ended, the same call resumes it. Raises RequestError, HubError or ModelError."""
    published = _published(name, tuple(components))
    out = home() / f"{name}-{_suffix(dtype, quantization)}" if out is None else expanded(out).absolute()
    missing = {part: where for part, where in published.items() if not (out / part / "config.json").exists()}
    tidy(out)
    before = hub.describe(out) if out.exists() else {}
    if before:
        _check_same(out, name, dtype, quantization)
    if not missing:
        if published.keys() - set(before["components"]):  # a run was killed before it said what is there
            describe(out, before["variant"], before)
        return out
    with ExitStack() as stack:
        repos = _open_all(missing.values(), out, lambda: on_progress(Progress("", 0, 0)))
        for repo in repos.values():
            stack.callback(repo.close)
        collection = collect(Place(repos[where.repo], where.under, part) for part, where in missing.items())
        parts, _ = prepare_parts(collection.found, dtype, quantization, recipe)
        on_plan([_planned(part, parts[part], repos[missing[part].repo]) for part in missing])
        for repo in repos.values():
            repo.on_wait = None  # from here on several threads read, and the job waits for them
        if not dry_run:
            Job(out, parts, name.rpartition("-")[2], before, add=bool(before)).run(on_progress)
    return out


def _published(name: str, components: tuple[str, ...]) -> dict[str, hub.Published]:
    if name.lower() in hub.UNPUBLISHED:
        raise RequestError(hub.UNPUBLISHED[name.lower()])
    if name not in hub.PUBLISHED:
        raise RequestError(
            f"{name!r} is not known: {', '.join(hub.PUBLISHED)}, or a Hub repo of a converted model."
        )
    published = hub.PUBLISHED[name]
    if unknown := [part for part in components if part not in published]:
        raise RequestError(f"there is no component {unknown[0]!r}: choose of {', '.join(published)}.")
    return {part: published[part] for part in components}


def _revisions(out: Path) -> dict[str, str]:
    """By repo, the commit that this model, finished or not, or another beside it is made of."""
    notes = [*out.parent.glob("*/*/config.json"), *work_beside(out).glob("*.json")]
    found: dict[str, str] = {}
    for note in notes:  # what was begun counts more than what lies beside it
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            values = json.loads(note.read_text())
            source = (values[1] if isinstance(values, list) else values)["source"]
            found[source["repo"]] = source["revision"]
    return found


def _open_all(places: Iterable[hub.Published], out: Path, on_wait: OnWait) -> dict[str, Repo]:
    """By name, the repos of these places, at the commits that were taken of them before."""
    revisions = _revisions(out)
    return {name: _open(name, revisions.get(name), on_wait) for name in {place.repo for place in places}}


def _open(repo: str, revision: str | None, on_wait: OnWait) -> Repo:
    try:
        return Repo(repo, revision, on_wait)
    except NoRevision:
        return Repo(repo, None, on_wait)


def _check_same(out: Path, name: str, dtype: str, quantization: Quantization | None) -> None:
    """Raises RequestError if another model is there, or this one in another precision."""
    config = hub.describe(out)
    asked = {"dtype": dtype} if quantization is None else quantization.settings()
    for component in ("transformer", "text_encoder"):
        own = read_json(out / component / "config.json") if (out / component).is_dir() else None
        stored = own and own.get("quantization", {"dtype": own.get("dtype")})
        if component == "text_encoder" and asked.get("dtype") == "float16":
            continue  # it is kept in bfloat16
        if stored and any(stored.get(key) != value for key, value in asked.items()):
            raise RequestError(f"{out} is there in another precision: choose another --mlx-path.")
    if not name.endswith(config["variant"]):
        raise RequestError(f"{out} is a {config['variant']} model: choose another --mlx-path.")


def _suffix(dtype: str, quantization: Quantization | None) -> str:
    if quantization is None:
        return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(dtype, dtype)
    return f"{quantization.bits}bit" if quantization.mode == "affine" else quantization.mode


def _planned(component: str, part: Part, repo: Repo) -> Planned:
    beside = sum(file.size for file in part.beside.values())
    fetched, stored = part.source_bytes + beside, part.stored_bytes + beside
    return Planned(component, repo.name, fetched, stored, licence(component)[0], repo.gated)
