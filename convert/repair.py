"""Broken files of a model folder, made or fetched again, and only those."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlx_happyhorse import hub
from mlx_happyhorse.checking import Problem
from mlx_happyhorse.errors import ModelError, RequestError
from mlx_happyhorse.sums import SUMS, read_sums
from mlx_happyhorse.weights import read_json

from .card import REPORT
from .collect import Place, collect
from .folder import beside
from .job import JOURNAL, Part, locked, tidy, work_beside, write_part
from .journal import Journal
from .precision import Prepared, formats
from .repo import Repo

OnBytes = Callable[[int], None]


def fix(folder: Path, problems: list[Problem], on_bytes: OnBytes = lambda count: None) -> None:
    """Replaces what `checking.check` found broken. Raises RequestError where it cannot be had again, and
    HubError; a call that was stopped is gone on with by the next."""
    broken: dict[str, set[str | None]] = {}
    for problem in problems:
        broken.setdefault(problem.component, set()).add(problem.file)
    if repo := hub.repo_of(folder):
        for name, files in broken.items():
            hub.fetch_again(repo, folder, [f"{name}/{file or '*'}" for file in files])
        return
    with locked(work_beside(folder)):
        for name, files in broken.items():
            _convert_again(folder / name, files, on_bytes)
    tidy(folder)


def _convert_again(folder: Path, broken: set[str | None], on_bytes: OnBytes) -> None:
    config = _config(folder, broken)
    source = config["source"]
    place = Place(Repo(source["repo"], source["revision"]), source["path"], folder.name)
    component, checkpoint = collect([place]).found[folder.name]
    prepared = Prepared(config, component.tensors, formats(config, component.tensors), [])
    part = Part(prepared, beside(folder.name, checkpoint), {})
    _keep_whole_shards(folder, part, broken)
    write_part(part, folder, on_bytes)


def _config(folder: Path, broken: set[str | None]) -> dict[str, Any]:
    """A component's config, which says how to make it again."""
    try:
        config = read_json(folder / "config.json")
    except ModelError:
        config = {}
    if "config.json" in broken or "revision" not in config.get("source", {}):
        raise RequestError(
            f"{folder} cannot be fetched again, as it does not say from where: convert it anew."
        )
    return config


def _keep_whole_shards(folder: Path, part: Part, broken: set[str | None]) -> None:
    """Notes as done what is whole, and removes the rest."""
    sums = {} if broken & {None, SUMS, REPORT} else read_sums(folder)
    report = read_json(folder / REPORT) if sums and (folder / REPORT).exists() else {}
    journal = Journal(folder / JOURNAL)
    for shard, items in part.shards.items():
        if shard not in sums or shard in broken:
            (folder / shard).unlink(missing_ok=True)
            continue
        for item in items:
            errors = report.get(item.name.removesuffix(".weight"), {})
            journal.add("tensors", item.name, {key: v for key, v in errors.items() if key.endswith("_error")})
        journal.add("shards", shard, sums[shard])
    for file in folder.glob("*.safetensors"):
        if file.name not in part.shards:
            file.unlink()
