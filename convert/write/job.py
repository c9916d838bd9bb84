"""Write a model folder: in a hidden folder beside it until it is complete, locked, and resumable."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mlx_happyhorse.errors import HappyHorseError, HubError, ModelError, RequestError
from mlx_happyhorse.files import atomic_write
from mlx_happyhorse.runtime.memory import limits
from mlx_happyhorse.runtime.waiting import RESUMABLE, run_in_background
from mlx_happyhorse.storage.checksums import SUMS, write_sums
from mlx_happyhorse.storage.hub import is_complete
from mlx_happyhorse.storage.weights import INDEX, read_json
from mlx_happyhorse.version import __version__

from ..read.tensors import File
from .card import REPORT, card, top_config
from .journal import Journal
from .quantization import Prepared
from .shards import MAX_SHARD_BYTES, Item, divide, write_shard

JOURNAL, LOCK, MODEL = "journal.jsonl", "lock", "model"
CACHE_BYTES = 256 << 20  # of freed memory that MLX may cache: chunks differ in shape, so few are reused
SPARE_BYTES = 64 << 20  # of disk space, for configs, tokenizer and reports


@dataclass
class Target:
    """A component to write, and the files beside its tensors. `identity` changes when its source does."""

    prepared: Prepared
    extra_files: dict[str, File]
    identity: dict[str, Any]

    @cached_property
    def shards(self) -> dict[str, list[Item]]:
        _, tensors, formats, _ = self.prepared
        return divide([Item(name, tensor, formats[name]) for name, tensor in tensors.items()])

    @property
    def source_bytes(self) -> int:
        return sum(tensor.source_bytes for tensor in self.prepared.tensors.values())

    @cached_property
    def stored_bytes(self) -> int:
        return sum(item.stored_bytes for items in self.shards.values() for item in items)


@dataclass
class Progress:
    """Source bytes done and in total (0 while unknown), and the current component."""

    component: str
    done: int
    total: int


OnProgress = Callable[[Progress], None]  # also called while no bytes arrive; an exception ends the job


@dataclass
class Job:
    """Write `targets` to the model folder `out`; with `add`, to the components that are in it already.

    `before` is the existing top config.json, or {}."""

    out: Path
    targets: dict[str, Target]
    variant: str
    before: dict[str, Any] = field(default_factory=dict)
    overwrite: bool = False
    add: bool = False

    def __post_init__(self) -> None:
        self.work = work_folder(self.out)
        self.model = self.work / MODEL

    def run(self, on_progress: OnProgress) -> None:
        """Write the folder; a later run resumes whatever ended this one, unless it would fail the same way.

        Raise RequestError if the job cannot start, ModelError for damaged sources, HubError if the connection
        fails for good, HappyHorseError if the disk does, and whatever `on_progress` raises."""
        resumed = self.model.exists()
        with locked(self.work), limits(cache=CACHE_BYTES):
            try:
                self._begin()
                self._check_disk_space()
                self._write_all(on_progress)
                self._finish()
            except BaseException as error:
                kept = resumed or self._is_worth_keeping(error)
                if not kept:
                    shutil.rmtree(self.work, ignore_errors=True)
                with suppress(HappyHorseError, OSError):
                    tidy(self.out)
                if (explained := explain(error, self.out, kept)) is error:
                    raise
                raise explained from error

    def _is_worth_keeping(self, error: BaseException) -> bool:
        """Return whether a later run would find finished work, and get further than this one."""
        if isinstance(error, RequestError) or getattr(error, "errno", None) == errno.EFBIG:
            return False
        folders = [self.model / name for name in self.targets]
        if isinstance(error, ModelError):  # the source is damaged: its own component cannot be finished
            return any(map(_is_complete, folders))
        return any(_is_complete(folder) or _is_started(folder) for folder in folders)

    def _begin(self) -> None:
        """Discard unfinished components of other jobs, and link those that exist elsewhere."""
        self.model.mkdir(exist_ok=True)
        for name, target in self.targets.items():
            fingerprint = self.work / f"{name}.json"
            text = json.dumps([__version__, target.prepared.config, target.identity], sort_keys=True)
            if not fingerprint.exists() or fingerprint.read_text() != text:
                shutil.rmtree(self.model / name, ignore_errors=True)
                with atomic_write(fingerprint) as partial:
                    partial.write_text(text)
        for item in self.model.iterdir():
            if item.name not in self.targets:
                _remove(item)
        for name, target in self.targets.items():
            if not _is_complete(self.model / name):
                self._link(name, target)

    def _check_disk_space(self) -> None:
        present = sum(file.stat().st_blocks * 512 for file in self.work.rglob("*") if file.is_file())
        need = sum(target.stored_bytes for target in self.targets.values()) - present + SPARE_BYTES
        free = shutil.disk_usage(self.work).free
        if need > free:
            raise RequestError(
                f"not enough disk space: {self.out} needs {need / 1e9:.1f} GB more, {free / 1e9:.1f} GB are "
                "free. Free up space, or choose another disk or fewer bits."
            )

    def _link(self, name: str, target: Target) -> None:
        """Hard-link the component from another model in the same parent folder, if one has the same."""
        if "revision" not in target.prepared.config.get("source", {}):
            return
        wanted = json.loads(json.dumps(target.prepared.config))
        for config in sorted(self.out.parent.glob(f"*/{name}/config.json")):
            with suppress(ModelError):
                if config.parent.parent == self.out or not _is_complete(config.parent):
                    continue
                if read_json(config) != wanted:
                    continue
                shutil.rmtree(self.model / name, ignore_errors=True)
                with atomic_write(self.model / name) as partial:
                    shutil.copytree(config.parent, partial, copy_function=_link_or_copy)
                return

    def _write_all(self, on_progress: OnProgress) -> None:
        progress = Progress("", 0, sum(target.source_bytes for target in self.targets.values()))
        for name, target in self.targets.items():
            progress.component = name

            def advance(count: int) -> None:
                progress.done += count
                on_progress(progress)

            if _is_complete(self.model / name):
                advance(target.source_bytes)
            else:
                write_component(target, self.model / name, advance)

    def _finish(self) -> None:
        """Write config and card, and move the result into place."""
        if self.add:
            for name in self.targets:
                shutil.rmtree(self.out / name, ignore_errors=True)  # a leftover without a config
                (self.model / name).rename(self.out / name)
            describe(self.out, self.variant, self.before)
        else:
            describe(self.model, self.variant, self.before, self.out.name)
            if self.overwrite and self.out.exists():
                self.out.rename(backup_folder(self.out))
            self.model.rename(self.out)
            shutil.rmtree(backup_folder(self.out), ignore_errors=True)
        shutil.rmtree(self.work)


def work_folder(out: Path) -> Path:
    """Return the hidden folder in which `out` is written."""
    return out.with_name(f".{out.name}.partial")


def backup_folder(out: Path) -> Path:
    """Return where the previous `out` is kept until the new one is in place."""
    return out.with_name(f".{out.name}.old")


def tidy(out: Path) -> None:
    """Clean up after a run that was killed while it replaced `out`; restore the previous folder if needed.

    Raise RequestError if `out` cannot be a model folder."""
    if not out.name:
        raise RequestError(f"{out} cannot be a model folder: give the name of a new folder.")
    work, backup = work_folder(out), backup_folder(out)
    if backup.exists() and not out.exists():
        backup.rename(out)
    elif backup.exists():
        shutil.rmtree(backup)
    if out.exists() and work.exists() and not any((work / MODEL).glob("*")):
        with suppress(RequestError), locked(work):  # a locked one belongs to a run that has just started
            shutil.rmtree(work)


def write_component(target: Target, folder: Path, on_bytes: Callable[[int], None]) -> None:
    """Write one component, resuming from its journal; it is complete when the journal is removed."""
    folder.mkdir(exist_ok=True)
    _remove_partial_files(folder)
    journal = Journal(folder / JOURNAL)
    for name, items in target.shards.items():
        if name in journal.shards and (folder / name).exists():
            on_bytes(sum(item.tensor.source_bytes for item in items))
        else:
            write_shard(folder / name, items, journal, on_bytes)
    with atomic_write(folder / "config.json") as path:
        write_json(path, target.prepared.config)
    if len(target.shards) > 1:
        _write_index(folder, target)
    if report := _report(target, journal):
        with atomic_write(folder / REPORT) as path:
            write_json(path, report)
    for name, file in target.extra_files.items():
        with atomic_write(folder / name) as path:
            path.write_bytes(run_in_background(lambda: file.read(0, file.size), lambda: on_bytes(0)))  # noqa: B023
    names = ["config.json", INDEX, REPORT, *target.extra_files]
    write_sums(folder, [*target.shards, *(n for n in names if (folder / n).exists())], journal.shards)
    journal.path.unlink()


def describe(folder: Path, variant: str, before: dict[str, Any], name: str | None = None) -> None:
    """Write the top config.json and the model card for the components in a folder."""
    _remove_partial_files(folder)
    config = top_config(folder, variant, before)
    with atomic_write(folder / "README.md") as path:
        path.write_text(card(folder, name or folder.name, config), encoding="utf-8")
    with atomic_write(folder / "config.json") as path:
        write_json(path, config)


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _write_index(folder: Path, target: Target) -> None:
    names = {o[0]: shard for shard, items in target.shards.items() for item in items for o in item.outputs()}
    values = {"metadata": {"total_size": target.stored_bytes}, "weight_map": names}
    with atomic_write(folder / INDEX) as path:
        write_json(path, values)


def _report(target: Target, journal: Journal) -> dict[str, Any]:
    """Return the settings and errors of each quantized matrix, by its path."""
    formats = target.prepared.formats
    return {
        name.removesuffix(".weight"): how.settings() | journal.tensors[name]
        for name, how in ((name, formats[name].quantization) for name in target.prepared.tensors)
        if how is not None
    }


def _is_complete(folder: Path) -> bool:
    return (folder / SUMS).exists() and not (folder / JOURNAL).exists() and is_complete(folder)


def _is_started(folder: Path) -> bool:
    """Return whether at least one tensor is finished."""
    journal = folder / JOURNAL
    return journal.exists() and bool(Journal(journal).tensors)


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Create the folder and hold its lock. Raise RequestError if another process has it."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(work / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise RequestError(f"{work.parent} cannot be written to: {error.strerror}.") from error
    try:
        with suppress(OSError):  # some network disks have no locks
            _lock(descriptor, work)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, work: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RequestError(f"another happyhorse process is writing to {work}.") from error


def explain(error: BaseException, out: Path, kept: bool) -> BaseException:
    """Return an error with what to do next, and with `kept` that the run can be resumed.

    Errors that need no more words are returned unchanged."""
    advice = f" {RESUMABLE[0].upper()}{RESUMABLE[1:]}." if kept else ""
    if isinstance(error, HubError) and kept:
        return HubError(f"{error}{advice}")
    if isinstance(error, KeyboardInterrupt) and kept:
        return KeyboardInterrupt(RESUMABLE)
    if not isinstance(error, OSError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HappyHorseError(f"the disk is full and {out} is incomplete: free up space.{advice}")
    if error.errno == errno.EFBIG:
        return HappyHorseError(
            f"the file system of {out} does not support files of {MAX_SHARD_BYTES / 1e9:.0f} GB: "
            "choose another disk."
        )
    return HappyHorseError(f"{out} could not be written: {error.strerror or error}.{advice}")


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # exFAT and some others have no hard links
        shutil.copyfile(source, target)


def _remove_partial_files(folder: Path) -> None:
    """Remove small files that a killed run left incomplete."""
    for file in folder.glob(".*.partial"):
        file.unlink()


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
