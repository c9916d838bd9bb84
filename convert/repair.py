"""Repair a model folder: fetch or convert its damaged files again, and only those."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from mlx_happyhorse.errors import ModelError, RequestError
from mlx_happyhorse.storage import hub
from mlx_happyhorse.storage.checksums import SUMS, read_sums
from mlx_happyhorse.storage.verify import Problem
from mlx_happyhorse.storage.weights import read_json

from .folder import extra_files
from .layouts.collect import Place, collect
from .read.repo import Repo
from .write.card import REPORT
from .write.job import JOURNAL, Target, explain, locked, tidy, work_folder, write_component
from .write.journal import Journal
from .write.quantization import Prepared, formats

OnBytes = Callable[[int], None]


def fix(folder: Path, problems: list[Problem], on_bytes: OnBytes = lambda count: None) -> None:
    """Replace the files that `storage.verify.check` found damaged. A repeated call resumes a stopped one.

    `on_bytes` is called a few times a second, with 0 while no bytes arrive; an exception from it ends the
    repair. Raise RequestError if a file has no known source, and HubError."""
    broken: dict[str, set[str | None]] = {}
    for problem in problems:
        broken.setdefault(problem.component, set()).add(problem.file)
    if repo := hub.repo_of(folder):
        patterns = [f"{name}/{file or '*'}" for name, files in broken.items() for file in files]
        hub.refetch(repo, folder, patterns, _as_increments(on_bytes))
        return
    with locked(work_folder(folder)):
        for name, files in broken.items():
            try:
                _convert_again(folder / name, files, on_bytes)
            except BaseException as error:
                if (explained := explain(error, folder / name, kept=True)) is error:
                    raise
                raise explained from error
    tidy(folder)


def _as_increments(on_bytes: OnBytes) -> Callable[[int, int], None]:
    """Return a hook for total bytes done, which passes each increment to `on_bytes`."""
    before = 0

    def count(done: int, total: int) -> None:
        nonlocal before
        on_bytes(done - before)
        before = done

    return count


def _convert_again(folder: Path, broken: set[str | None], on_bytes: OnBytes) -> None:
    """Convert one component again from its source on the Hub, except for its undamaged shards."""
    config = _config(folder, broken)
    source = config["source"]
    with closing(Repo(source["repo"], source["revision"], lambda: on_bytes(0))) as repo:
        place = Place(repo, source["path"], folder.name)
        component, checkpoint = collect([place]).found[folder.name]
        repo.on_wait = None
        prepared = Prepared(config, component.tensors, formats(config, component.tensors), [])
        target = Target(prepared, extra_files(folder.name, checkpoint), {})
        _keep_undamaged_shards(folder, target, broken)
        write_component(target, folder, on_bytes)


def _config(folder: Path, broken: set[str | None]) -> dict[str, Any]:
    """Return a component's config. Raise RequestError if it is damaged or names no source on the Hub."""
    try:
        config = read_json(folder / "config.json")
    except ModelError:
        config = {}
    if "config.json" in broken or "revision" not in config.get("source", {}):
        raise RequestError(
            f"{folder} cannot be repaired, because its source on the Hub is unknown: convert it again."
        )
    return config


def _keep_undamaged_shards(folder: Path, target: Target, broken: set[str | None]) -> None:
    """Record the undamaged shards in a journal as done, and remove all others."""
    sums = {} if broken & {None, SUMS, REPORT} else read_sums(folder)
    report = read_json(folder / REPORT) if sums and (folder / REPORT).exists() else {}
    journal = Journal(folder / JOURNAL)
    for shard, items in target.shards.items():
        if shard not in sums or shard in broken:
            (folder / shard).unlink(missing_ok=True)
            continue
        for item in items:
            errors = report.get(item.name.removesuffix(".weight"), {})
            journal.add("tensors", item.name, {key: v for key, v in errors.items() if key.endswith("_error")})
        journal.add("shards", shard, sums[shard])
    for file in folder.glob("*.safetensors"):
        if file.name not in target.shards:
            file.unlink()
