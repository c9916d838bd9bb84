"""A model folder in the making: beside its place until it is whole, locked, and gone on with after a stop."""

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
from mlx_happyhorse.files import written_beside
from mlx_happyhorse.runtime.memory import limits
from mlx_happyhorse.runtime.waiting import KEPT, attended
from mlx_happyhorse.storage.checksums import SUMS, write_sums
from mlx_happyhorse.storage.hub import is_here
from mlx_happyhorse.storage.weights import INDEX, read_json
from mlx_happyhorse.version import __version__

from ..read.tensors import File
from .card import REPORT, card, top_config
from .journal import Journal
from .quantization import Prepared
from .shards import MAX_SHARD_BYTES, Item, divide, write_shard

JOURNAL, LOCK, MODEL = "journal.jsonl", "lock", "model"
CACHE_BYTES = 256 << 20  # of freed memory that MLX may keep: little is used twice
SPARE_BYTES = 64 << 20  # of a disk, for all that is small


@dataclass
class Part:
    """A component to be written, with the files that go beside it, and what tells its source from others."""

    prepared: Prepared
    beside: dict[str, File]
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
    """How many bytes of the sources are done, of how many, and which component is in hand.

    `total` is 0 as long as it is not known."""

    component: str
    done: int
    total: int


OnProgress = Callable[[Progress], None]  # also called while nothing comes; what it raises ends the job


@dataclass
class Job:
    """Writes `parts` to the model folder `out`. What is in `out` already stays, if it is to be added to."""

    out: Path
    parts: dict[str, Part]
    variant: str
    before: dict[str, Any] = field(default_factory=dict)
    overwrite: bool = False
    add: bool = False

    def __post_init__(self) -> None:
        self.work = work_beside(self.out)
        self.model = self.work / MODEL

    def run(self, on_progress: OnProgress) -> None:
        """Raises RequestError if it cannot begin, ModelError for sources that are wrong, HubError if the
        connection fails for good, HappyHorseError if the disk does, or what `on_progress` raises to end it.

        Whatever ends it, what is done stays for the next run, unless that would do no better."""
        resumed = self.model.exists()
        with locked(self.work), limits(cache=CACHE_BYTES):
            try:
                self._begin()
                self._check_room()
                self._write_all(on_progress)
                self._finish()
            except BaseException as error:
                kept = resumed or self._is_worth_keeping(error)
                if not kept:
                    shutil.rmtree(self.work, ignore_errors=True)
                with suppress(HappyHorseError, OSError):
                    tidy(self.out)
                if (explained := in_words(error, self.out, kept)) is error:
                    raise
                raise explained from error

    def _is_worth_keeping(self, error: BaseException) -> bool:
        """Whether the next run would find something done, and get further than this one."""
        if isinstance(error, RequestError) or getattr(error, "errno", None) == errno.EFBIG:
            return False
        folders = [self.model / name for name in self.parts]
        if isinstance(error, ModelError):  # of a source, which is no better the next time
            return any(map(_is_whole, folders))
        return any(_is_whole(folder) or _is_begun(folder) for folder in folders)

    def _begin(self) -> None:
        """Throws away what another job left."""
        self.model.mkdir(exist_ok=True)
        for name, part in self.parts.items():
            note = self.work / f"{name}.json"
            text = json.dumps([__version__, part.prepared.config, part.identity], sort_keys=True)
            if not note.exists() or note.read_text() != text:
                shutil.rmtree(self.model / name, ignore_errors=True)
                with written_beside(note) as beside:
                    beside.write_text(text)
        for item in self.model.iterdir():
            if item.name not in self.parts:
                _remove(item)
        for name, part in self.parts.items():
            if not _is_whole(self.model / name):
                self._link(name, part)

    def _check_room(self) -> None:
        present = sum(file.stat().st_blocks * 512 for file in self.work.rglob("*") if file.is_file())
        need = sum(part.stored_bytes for part in self.parts.values()) - present + SPARE_BYTES
        free = shutil.disk_usage(self.work).free
        if need > free:
            raise RequestError(
                f"{self.out} needs {need / 1e9:.1f} GB more on its disk, where {free / 1e9:.1f} GB are free: "
                "make room, or choose another disk or fewer bits."
            )

    def _link(self, name: str, part: Part) -> None:
        """The same component of a model beside this one, if there is one, without its bytes again."""
        if "revision" not in part.prepared.config.get("source", {}):
            return
        wanted = json.loads(json.dumps(part.prepared.config))
        for config in sorted(self.out.parent.glob(f"*/{name}/config.json")):
            with suppress(ModelError):
                if config.parent.parent == self.out or not _is_whole(config.parent):
                    continue
                if read_json(config) != wanted:
                    continue
                shutil.rmtree(self.model / name, ignore_errors=True)
                with written_beside(self.model / name) as beside:
                    shutil.copytree(config.parent, beside, copy_function=_link_or_copy)
                return

    def _write_all(self, on_progress: OnProgress) -> None:
        progress = Progress("", 0, sum(part.source_bytes for part in self.parts.values()))
        for name, part in self.parts.items():
            progress.component = name

            def add(count: int) -> None:
                progress.done += count
                on_progress(progress)

            if _is_whole(self.model / name):
                add(part.source_bytes)
            else:
                write_part(part, self.model / name, add)

    def _finish(self) -> None:
        if self.add:
            for name in self.parts:
                shutil.rmtree(self.out / name, ignore_errors=True)  # a leftover without a config
                (self.model / name).rename(self.out / name)
            describe(self.out, self.variant, self.before)
        else:
            describe(self.model, self.variant, self.before, self.out.name)
            if self.overwrite and self.out.exists():
                self.out.rename(old_beside(self.out))
            self.model.rename(self.out)
            shutil.rmtree(old_beside(self.out), ignore_errors=True)
        shutil.rmtree(self.work)


def work_beside(out: Path) -> Path:
    """The folder in which `out` is made."""
    return out.with_name(f".{out.name}.partial")


def old_beside(out: Path) -> Path:
    """Where the folder that `out` replaces is until that is in its place."""
    return out.with_name(f".{out.name}.old")


def tidy(out: Path) -> None:
    """Removes what a run left that was killed after `out` was whole, or puts the replaced folder back.

    Raises RequestError for a folder that cannot be written."""
    if not out.name:
        raise RequestError(f"{out} is no folder that can be written: name a new one.")
    work, old = work_beside(out), old_beside(out)
    if old.exists() and not out.exists():
        old.rename(out)
    elif old.exists():
        shutil.rmtree(old)
    if out.exists() and work.exists() and not any((work / MODEL).glob("*")):
        with suppress(RequestError), locked(work):  # unless another run is at its very beginning
            shutil.rmtree(work)


def write_part(part: Part, folder: Path, on_bytes: Callable[[int], None]) -> None:
    """Writes one component; as long as its journal is there it is not whole."""
    folder.mkdir(exist_ok=True)
    _remove_litter(folder)
    journal = Journal(folder / JOURNAL)
    for name, items in part.shards.items():
        if name in journal.shards and (folder / name).exists():
            on_bytes(sum(item.tensor.source_bytes for item in items))
        else:
            write_shard(folder / name, items, journal, on_bytes)
    with written_beside(folder / "config.json") as path:
        write_json(path, part.prepared.config)
    if len(part.shards) > 1:
        _write_index(folder, part)
    if report := _report(part, journal):
        with written_beside(folder / REPORT) as path:
            write_json(path, report)
    for name, file in part.beside.items():
        with written_beside(folder / name) as path:
            path.write_bytes(attended(lambda: file.read(0, file.size), lambda: on_bytes(0)))  # noqa: B023
    names = ["config.json", INDEX, REPORT, *part.beside]
    write_sums(folder, [*part.shards, *(n for n in names if (folder / n).exists())], journal.shards)
    journal.path.unlink()


def describe(folder: Path, variant: str, before: dict[str, Any], name: str | None = None) -> None:
    """Writes the top config.json and the card of the components that are there."""
    _remove_litter(folder)
    config = top_config(folder, variant, before)
    with written_beside(folder / "README.md") as beside:
        beside.write_text(card(folder, name or folder.name, config), encoding="utf-8")
    with written_beside(folder / "config.json") as beside:
        write_json(beside, config)


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _write_index(folder: Path, part: Part) -> None:
    names = {o[0]: shard for shard, items in part.shards.items() for item in items for o in item.outputs()}
    values = {"metadata": {"total_size": part.stored_bytes}, "weight_map": names}
    with written_beside(folder / INDEX) as path:
        write_json(path, values)


def _report(part: Part, journal: Journal) -> dict[str, Any]:
    """By quantized matrix: how it is stored, and its errors."""
    formats = part.prepared.formats
    return {
        name.removesuffix(".weight"): how.settings() | journal.tensors[name]
        for name, how in ((name, formats[name].quantization) for name in part.prepared.tensors)
        if how is not None
    }


def _is_whole(folder: Path) -> bool:
    return (folder / SUMS).exists() and not (folder / JOURNAL).exists() and is_here(folder)


def _is_begun(folder: Path) -> bool:
    """Whether a tensor at least is done."""
    journal = folder / JOURNAL
    return journal.exists() and bool(Journal(journal).tensors)


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Makes the folder, and keeps others out of it for as long as this process lives."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(work / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise RequestError(f"{work.parent} cannot be written to: {error.strerror}.") from error
    try:
        with suppress(OSError):  # a disk without locks, of a server say
            _lock(descriptor, work)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, work: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RequestError(f"another happyhorse is writing to {work} at this moment.") from error


def in_words(error: BaseException, out: Path, kept: bool) -> BaseException:
    """The same for a person, and that what is done is kept; itself where there is nothing to add."""
    advice = f" {KEPT[0].upper()}{KEPT[1:]}." if kept else ""
    if isinstance(error, HubError) and kept:
        return HubError(f"{error}{advice}")
    if isinstance(error, KeyboardInterrupt) and kept:
        return KeyboardInterrupt(KEPT)
    if not isinstance(error, OSError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HappyHorseError(f"the disk was full before {out} was whole: make room.{advice}")
    if error.errno == errno.EFBIG:
        return HappyHorseError(
            f"the disk of {out} takes no files of {MAX_SHARD_BYTES / 1e9:.0f} GB: choose another."
        )
    return HappyHorseError(f"{out} could not be written: {error.strerror or error}.{advice}")


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a disk without hard links, exFAT say
        shutil.copyfile(source, target)


def _remove_litter(folder: Path) -> None:
    """What a killed run may have left of a small file."""
    for file in folder.glob(".*.partial"):
        file.unlink()


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
