"""Broken files of a model folder, made or fetched again, and only those."""

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

from .folder import beside
from .layouts.collect import Place, collect
from .read.repo import Repo
from .write.card import REPORT
from .write.job import JOURNAL, Part, in_words, locked, tidy, work_beside, write_part
from .write.journal import Journal
from .write.quantization import Prepared, formats

OnBytes = Callable[[int], None]


def fix(folder: Path, problems: list[Problem], on_bytes: OnBytes = lambda count: None) -> None:
    """Replaces what `checking.check` found broken. Raises RequestError where it cannot be had again, and
    HubError; a call that was stopped is resumed by the next. `on_bytes` is called a few times a second, also
    with 0 while no bytes come, and ends it by raising."""
    broken: dict[str, set[str | None]] = {}
    for problem in problems:
        broken.setdefault(problem.component, set()).add(problem.file)
    if repo := hub.repo_of(folder):
        patterns = [f"{name}/{file or '*'}" for name, files in broken.items() for file in files]
        hub.fetch_again(repo, folder, patterns, _by_steps(on_bytes))
        return
    with locked(work_beside(folder)):
        for name, files in broken.items():
            try:
                _convert_again(folder / name, files, on_bytes)
            except BaseException as error:
                if (explained := in_words(error, folder / name, kept=True)) is error:
                    raise
                raise explained from error
    tidy(folder)


def _by_steps(on_bytes: OnBytes) -> Callable[[int, int], None]:
    """The same for a function of how many bytes are done: tells `on_bytes` how many came since."""
    before = 0

    def count(done: int, total: int) -> None:
        nonlocal before
        on_bytes(done - before)
        before = done

    return count


def _convert_again(folder: Path, broken: set[str | None], on_bytes: OnBytes) -> None:
    config = _config(folder, broken)
    source = config["source"]
    with closing(Repo(source["repo"], source["revision"], lambda: on_bytes(0))) as repo:
        place = Place(repo, source["path"], folder.name)
        component, checkpoint = collect([place]).found[folder.name]
        repo.on_wait = None
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
