"""The queue behind the page: one after the other, kept through a crash, harmed by no failure."""

from __future__ import annotations

import errno
import json
import threading
import time

import numpy as np
import pytest
from helpers.commands import frames_of
from helpers.models import golden_model
from PIL import Image

from mlx_happyhorse import HappyHorse, RequestError
from mlx_happyhorse.convert import Progress
from mlx_happyhorse.outputs import metadata
from mlx_happyhorse.outputs.mp4 import Mp4Writer

jobs = pytest.importorskip("mlx_happyhorse.demo.jobs.queue")
from mlx_happyhorse.demo import downloads  # noqa: E402
from mlx_happyhorse.demo.jobs.queue import Jobs, Order  # noqa: E402
from mlx_happyhorse.demo.offers import Offer  # noqa: E402
from mlx_happyhorse.demo.page import commands, history  # noqa: E402

SMALL = {"seconds": 0.2, "width": 64, "height": 32, "steps": 2}


def order(prompt="a ball", **settings):
    return Order(prompt, "tiny", SMALL | settings)


@pytest.fixture
def queue(tmp_path):
    queue = Jobs(tmp_path / "clips")
    yield queue
    queue.close()


def wait(queue, job, *states):
    for _ in range(400):
        now = queue.snapshot(job)
        if now.state in (states or ("done", "stopped", "error")):
            return now
        time.sleep(0.02)
    raise AssertionError(now)


def test_jobs_are_made_in_their_order_and_never_two_at_once(queue):
    ids = [queue.submit(order(seed=seed)) for seed in range(4)]
    running, finished = [], []
    while len(finished) < 4:
        now = queue.snapshots()
        running.append(sum(job.state == "running" for job in now))
        finished = [job.id for job in now if job.state == "done"]
        waiting = [job.place for job in now if job.state == "queued"]
        assert waiting == list(range(1, len(waiting) + 1))
        assert finished == ids[: len(finished)]
        time.sleep(0.01)
    assert max(running) == 1
    expected = HappyHorse.load("tiny").generate("a ball", seed=2, **SMALL)
    file = queue.snapshot(ids[2]).file
    assert len(frames_of(file)) == len(expected.video) and metadata.read(file)["seed"] == 2


def test_a_failure_leaves_the_next_job_unharmed(queue, monkeypatch):
    add, fails = Mp4Writer.add, iter([OSError(errno.ENOSPC, "No space left on device"), RuntimeError("odd")])

    def fail(self, frames):
        with self._writing():
            for error in fails:
                raise error
        add(self, frames)

    monkeypatch.setattr(Mp4Writer, "add", fail)
    full, odd, good = (wait(queue, queue.submit(order(seed=seed))) for seed in range(3))
    assert full.state == "error" and "could not be written: No space left on device" in full.error
    assert odd.error == "RuntimeError: odd"
    assert good.state == "done" and [good.file] == list(queue.folder.glob("*.mp4"))
    assert not list(queue.folder.glob(".*.partial"))


def test_models_change_from_job_to_job(queue):
    folder = str(golden_model("distill").folder)
    other = Order("a ball", folder, SMALL | {"height": 64, "seed": 1})
    made = [wait(queue, queue.submit(one)) for one in (order(seed=1), other, order(seed=1))]
    assert [metadata.read(job.file)["model"] for job in made] == ["tiny", folder, "tiny"]
    assert np.array_equal(frames_of(made[0].file), frames_of(made[2].file))


def test_a_job_is_stopped_in_the_queue_and_under_way(queue, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    encode = HappyHorse.encode_texts

    def wait_for_it(self, *arguments):
        begun.set()
        go_on.wait(10)
        return encode(self, *arguments)

    monkeypatch.setattr(HappyHorse, "encode_texts", wait_for_it)
    first, second = queue.submit(order("a ball that stops")), queue.submit(order())
    assert begun.wait(10)
    queue.stop(second)
    assert queue.snapshot(second).state == "stopped"
    queue.stop(first)
    go_on.set()
    assert wait(queue, first).state == "stopped"
    assert list(queue.folder.glob("*.mp4")) == [] and queue.snapshot("nobody") is None


def test_what_was_not_made_is_found_by_the_next_process(tmp_path, monkeypatch):
    Image.fromarray(np.full((32, 64, 3), 9, np.uint8)).save(tmp_path / "face.png")
    stuck = threading.Event()
    monkeypatch.setattr(HappyHorse, "encode_texts", lambda *_: stuck.wait(20) or 1 / 0)
    queue = Jobs(tmp_path / "clips")
    for prompt in ("a ball", "a cube"):
        queue.submit(Order(prompt, "tiny", {"upscale_size": (64, 64)}, image=tmp_path / "face.png"))
    (tmp_path / "face.png").unlink()
    kept = (tmp_path / "clips/.queue.json").read_text()
    stuck.set()
    queue.close()
    (tmp_path / "clips/.queue.json").write_text(kept)  # as a kill leaves it
    queue = Jobs(tmp_path / "clips")
    try:
        left = queue.unfinished()
        assert [one.prompt for one in left] == ["a ball", "a cube"]
        assert left[0].settings == {"upscale_size": (64, 64)} and left[0].image.exists()
        queue.discard()
        assert queue.unfinished() == [] and json.loads((tmp_path / "clips/.queue.json").read_text()) == []
    finally:
        queue.close()


@pytest.mark.parametrize("damage", ["", "[", "{}", "[1]", '[{"prompt": 1}]', "[" * 5000, "null"])
def test_a_damaged_file_of_waiting_jobs_costs_only_those(tmp_path, damage):
    (tmp_path / ".queue.json").write_text(damage)
    queue = Jobs(tmp_path)
    assert queue.unfinished() == []
    assert wait(queue, queue.submit(order())).state == "done"
    queue.close()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="clips cannot be saved in"):
        Jobs(tmp_path / "file")


def test_an_estimate_is_green_red_or_says_what_is_wrong(queue, monkeypatch):
    from dataclasses import replace

    from mlx_happyhorse.pipeline import stages

    assert queue.estimate(order()).state == "green"
    assert "seconds must be" in queue.estimate(order(seconds=900)).line
    large = Order("a ball", "tiny", {"seconds": 20.0, "ratio": "1:1"})
    machine = replace(stages.this_machine(), usable=430_000_000)
    monkeypatch.setattr(stages, "this_machine", lambda: machine)
    red = queue.estimate(large)
    assert red.state == "red" and red.fix and queue.estimate(red.fixed).state in ("green", "amber")


def test_copies_make_the_same_clip(queue, tmp_path):
    made = wait(queue, queue.submit(order('it\'s "here"; $HOME', seed=5)))
    script = commands.script(made.order, made.settings).replace(
        '"clip.mp4"', repr(str(tmp_path / "copy.mp4"))
    )
    exec(compile(script, "copied", "exec"), {})
    assert np.array_equal(frames_of(tmp_path / "copy.mp4"), frames_of(made.file))
    assert "'it'\"'\"'s \"here\"; $HOME'" in commands.command(made.order, made.settings)


def test_history_leaves_out_what_is_foreign_or_damaged(queue):
    made = wait(queue, queue.submit(order()))
    (queue.folder / "broken.mp4").write_bytes(b"x" * 100)
    (queue.folder / "cut.mp4").write_bytes(made.file.read_bytes()[:3000])
    clips = history.History(queue.folder).clips()
    assert [clip.file for clip in clips] == [made.file] and clips[0].poster[:2] == b"\xff\xd8"
    assert clips[0].latents is not None and made.latents == clips[0].latents


def test_a_download_shows_the_total_of_its_offer_until_one_is_known(monkeypatch, tmp_path):
    page, shown = downloads.Downloads(), []

    def download(model, quantization, on_progress):
        for progress in (Progress("", 0, 0), Progress("transformer", 4, 70)):
            on_progress(progress)
            shown.append((page.status.done, page.status.total))
        return tmp_path / "here"

    monkeypatch.setattr(downloads, "download", download)
    page.start(Offer("magihuman-distill", 4, fetched=81, stored=16, memory=11, streamed=False, fits=True))
    page.close()
    assert shown == [(0, 81), (4, 70)] and page.status.model == "here"
