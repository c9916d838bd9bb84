"""Downloads that are cancelled, or whose disk fills: what was done is kept, and not fetched again."""

import errno
import json
import os
import random
import re
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import pytest
from helpers import published
from helpers.commands import run
from helpers.hub_server import Fault, HubServer
from helpers.published import MAGIHUMAN, T5GEMMA
from helpers.served import asking, same

from mlx_happyhorse.convert import Planned, Quantization, download
from mlx_happyhorse.convert.write import shards
from mlx_happyhorse.convert.write.job import work_folder
from mlx_happyhorse.convert.write.journal import Journal
from mlx_happyhorse.errors import HappyHorseError, Stopped
from mlx_happyhorse.notes import listening

PARTS = ("transformer", "text_encoder")
NAME = "magihuman-distill-4bit"
IN_FLIGHT = 2 * shards.WORKERS + 2  # chunks that are fetched or stored at any time
SOON = 2.0  # seconds


class Undisturbed(NamedTuple):
    """A download that nothing happened to, with what was planned and fetched for it."""

    folder: Path
    planned: list[Planned]
    ranges: dict[tuple[str, int, int], int]
    sent: int


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    published.save_shards(published.transformer(mx.float32, seed=1), folder / MAGIHUMAN / "distill", 13)
    published.write_text_encoder(folder / T5GEMMA)
    return folder


@pytest.fixture(scope="module")
def undisturbed(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    planned: list[Planned] = []
    with HubServer(root) as server, asking(server, folder):
        made = get(on_plan=planned.extend)
        return Undisturbed(made, planned, ranges(server), server.sent())


@pytest.fixture
def server(root, tmp_path):
    with HubServer(root) as server, asking(server, tmp_path):
        yield server


@pytest.fixture
def home(tmp_path):
    return tmp_path / "models"


def get(**options):
    return download("magihuman-distill", components=PARTS, quantization=Quantization(4), **options)


def ranges(server):
    """The bytes sent of every range of tensors that was asked for; headers are read by every run."""
    found: dict[tuple[str, int, int], int] = {}
    for asked in list(server.requests):
        if asked.sent and asked.path.endswith(".safetensors") and asked.start >= _header(server, asked.path):
            key = asked.path, asked.start, asked.stop
            found[key] = found.get(key, 0) + asked.sent
    return found


def _header(server, path):
    repo, _, name = re.sub(r"/resolve/[^/]+/", "//", path[1:]).partition("//")
    with (server.root / repo / name).open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def again(server, undisturbed):
    """How many chunks, and how many bytes of them, were sent beyond once each."""
    sent = ranges(server)
    more = {key: count - undisturbed.ranges[key] for key, count in sent.items()}
    assert sent.keys() == undisturbed.ranges.keys()
    return sum(count > 0 for count in more.values()), sum(count for count in more.values() if count > 0)


def test_a_download_cancelled_ten_times_is_finished_without_fetching_it_again(undisturbed, server, home):
    moments = random.Random(22)
    for _ in range(10):
        enough = server.sent() + moments.uniform(0, 0.12) * undisturbed.sent

        def cancel(progress, enough=enough):
            if server.sent() > enough:
                raise Stopped("enough")

        with pytest.raises(Stopped, match="enough"):
            get(on_progress=cancel)
    get()
    assert same(home / NAME, undisturbed.folder)
    assert [item.name for item in home.iterdir()] == [NAME]
    chunks, size = again(server, undisturbed)
    assert chunks <= 10 * IN_FLIGHT and size < 0.2 * undisturbed.sent


def test_what_a_cancelled_download_has_done_is_not_asked_for_again(undisturbed, server, home):
    def cancel(progress):
        if progress.done > progress.total / 3 > 0:
            raise Stopped

    with pytest.raises(Stopped):
        get(on_progress=cancel)
    done = sum(len(Journal(file).tensors) for file in work_folder(home / NAME).rglob("journal.jsonl"))
    before = ranges(server)
    server.requests.clear()
    get()
    assert done > 20
    assert len(before.keys() & ranges(server).keys()) <= IN_FLIGHT
    assert len(ranges(server)) < len(undisturbed.ranges) - done / 2


@pytest.mark.parametrize("part", [0.1, 0.9])
def test_a_disk_that_fills_keeps_what_is_done(undisturbed, server, home, monkeypatch, capsys, part):
    left = part * sum(one.stored for one in undisturbed.planned)
    write = os.pwrite

    def fill(descriptor, data, position):
        nonlocal left
        left -= len(data)
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data, position)

    command = ("download", "magihuman-distill", "--q-bits", "4", "--components", *PARTS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fill)
        assert run(*command) == 1
    said = capsys.readouterr().err
    assert "the disk is full" in said and "same command" in said
    assert run(*command) == 0
    assert same(home / NAME, undisturbed.folder)
    chunks, size = again(server, undisturbed)
    assert chunks <= IN_FLIGHT and size < 0.1 * undisturbed.sent


@pytest.mark.parametrize(("kind", "answered"), [("stall", 0), ("status", 3), ("stall", 60), ("status", 60)])
def test_a_cancel_takes_effect_at_once_though_the_network_hangs(server, kind, answered):
    """While headers are read, first or later, and tensors; with a pause of 300 s before the next attempt."""
    hanging = Fault(kind, 1000, after=1, seconds=60, retry_after="300")
    server.faults += [Fault("none", answered), hanging]
    cancelled = threading.Event()

    def check(progress):
        if cancelled.is_set():
            raise Stopped

    def cancel():
        while hanging.times == 1000:
            time.sleep(0.01)
        time.sleep(0.3)
        cancelled.at = time.monotonic()
        cancelled.set()

    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(Stopped):
        get(on_progress=check)
    assert time.monotonic() - cancelled.at < SOON


def test_a_cancelled_download_asks_for_nothing_more(server):
    server.faults += [Fault("none", 60), Fault("status", 1000, retry_after="1")]

    def cancel(progress):
        if progress.done:
            raise Stopped

    with pytest.raises(Stopped):
        get(on_progress=cancel)
    time.sleep(0.2)
    before = len(server.requests)
    time.sleep(1.3)
    assert len(server.requests) == before


def test_any_failure_of_a_hook_keeps_what_is_done_and_is_passed_on(undisturbed, server, home):
    def fail(progress):
        if progress.done > progress.total / 2 > 0:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        get(on_progress=fail)
    assert work_folder(home / NAME).exists()
    server.requests.clear()
    get()
    assert server.sent() < 0.8 * undisturbed.sent


def test_a_cancel_before_anything_is_done_leaves_nothing(server, home):
    def cancel(progress):
        raise Stopped

    with pytest.raises(Stopped):
        get(on_progress=cancel)
    assert not home.exists() or not list(home.iterdir())


def test_a_cancel_keeps_a_model_that_is_added_to(undisturbed, server, home):
    download("magihuman-distill", components=["text_encoder"], quantization=Quantization(4))

    def cancel(progress):
        if progress.done:
            raise Stopped

    with pytest.raises(Stopped):
        get(on_progress=cancel)
    assert json.loads((home / NAME / "config.json").read_text())["components"] == ["text_encoder"]
    get()
    assert same(home / NAME, undisturbed.folder)


def test_progress_is_shown_while_nothing_comes(server):
    server.faults += [Fault("none", 60), Fault("stall", 1, after=1, seconds=1)]
    times = [time.monotonic()]
    get(on_progress=lambda progress: times.append(time.monotonic()))
    assert max(b - a for a, b in pairwise(times)) < 0.8


@pytest.mark.parametrize("answered", [0, 60])
def test_notes_of_the_threads_that_ask_go_to_who_listens(server, answered, monkeypatch):
    """Of headers, and of tensors."""
    monkeypatch.setattr(shards, "WORKERS", 1)
    server.faults += [Fault("none", answered), Fault("status", 3)]
    notes: list[str] = []
    with listening(notes.append):
        get()
    assert notes == ["the Hub is not responding: retrying."] * 2


def test_a_source_that_is_wrong_leaves_nothing(root, tmp_path, home):
    broken = tmp_path / "broken"
    tensors = published.transformer(mx.float32, seed=1)
    name = "block.layers.20.mlp.down_proj.weight"
    tensors[name] = mx.full(tensors[name].shape, float("nan"))
    published.save_shards(tensors, broken / MAGIHUMAN / "distill", 13)
    with (
        HubServer(broken) as server,
        asking(server, tmp_path),
        pytest.raises(HappyHorseError, match="contains NaN"),
    ):
        download("magihuman-distill", components=["transformer"], quantization=Quantization(4))
    assert not list(home.iterdir())
