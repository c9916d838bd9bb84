"""Models of ours that somebody published: a run fetches what it needs, once."""

import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.commands import run
from helpers.hub_server import Fault, HubServer
from helpers.served import asking, damage, weights_sent
from huggingface_hub import constants

from mlx_happyhorse import HappyHorse
from mlx_happyhorse.errors import Stopped
from mlx_happyhorse.storage import hub

T2V = ("transformer", "text_encoder", "video_decoder", "audio_vae")
OWN = "someone/horse"


@pytest.fixture
def own(tmp_path):
    """A Hub that holds a model of ours."""
    shutil.copytree(hub.EMBEDDED["tiny"], tmp_path / "hub" / OWN)
    with HubServer(tmp_path / "hub", redirect=True) as server, asking(server, tmp_path / "here"):
        yield server


def generate(**settings):
    return HappyHorse.load(OWN).generate("A ball.", seconds=0.2, steps=1, width=64, height=64, **settings)


def test_of_a_repo_of_ours_a_run_fetches_what_it_needs(own, monkeypatch):
    clip = generate(seed=1)
    assert weights_sent(own) == {*T2V}
    own.requests.clear()
    assert np.array_equal(generate(seed=1).video, clip.video)
    assert not own.requests
    generate(image=np.zeros((64, 64, 3), np.uint8))
    assert weights_sent(own) == {"video_encoder"}
    own.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert np.array_equal(generate(seed=1).video, clip.video)
    assert not own.requests


def test_all_of_a_repo_of_ours_is_downloaded_and_checked(own, capsys):
    assert run("download", OWN) == 0
    assert weights_sent(own) == {*hub.COMPONENTS}
    own.requests.clear()
    assert run("check", OWN) == 0
    assert run("info", OWN) == 0
    assert "not on this machine" not in capsys.readouterr().out
    assert not own.requests


def test_a_dry_run_fetches_nothing_of_a_repo_of_ours(own, capsys):
    assert run("download", OWN, "--dry-run") == 0
    assert OWN in capsys.readouterr().err
    assert not weights_sent(own)


def test_a_revision_is_pinned(own, monkeypatch, capsys):
    pinned = f"{OWN}@{own.commit(OWN)}"
    assert run("info", pinned) == 0
    assert run("info", f"{OWN}@{'0' * 40}") == 1
    assert f"{OWN} has no such revision" in capsys.readouterr().err
    (own.root / OWN / "README.md").write_text("newer")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert HappyHorse.load(pinned).folder.name == pinned.partition("@")[2]


def test_a_repo_that_is_not_here_is_not_asked_for_offline(own, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run("generate", "x", "-m", OWN) == 1
    assert f"{OWN} is not complete on this machine" in capsys.readouterr().err
    assert not own.requests


def test_a_damaged_file_of_a_repo_of_ours_is_fetched_again(own, capsys):
    assert run("download", OWN) == 0
    file = hub.find(OWN) / "transformer/model.safetensors"
    data = damage(file)
    own.requests.clear()
    assert run("check", OWN) == 1
    assert "transformer/model.safetensors: does not match its checksum" in capsys.readouterr().err
    assert run("check", OWN, "--fix") == 0
    assert file.read_bytes() == data and weights_sent(own) == {"transformer"}


def test_what_is_fetched_is_counted(own):
    seen: list[tuple[int, int]] = []
    folder = hub.find(OWN)
    here = {file for file in folder.rglob("*") if file.is_file()}
    hub.download(OWN, lambda done, total: seen.append((done, total)))
    fetched = {file for file in folder.rglob("*") if file.is_file()} - here
    assert seen[-1][0] == seen[-1][1] == sum(file.stat().st_size for file in fetched)
    own.requests.clear()
    seen.clear()
    hub.fetch(folder, hub.COMPONENTS, lambda done, total: seen.append((done, total)))
    assert not seen and not own.requests


def test_a_run_tells_what_it_fetches_of_a_repo(own):
    seen: list[tuple[int, int]] = []
    horse = HappyHorse.load(OWN, on_fetch=lambda done, total: seen.append((done, total)))
    described = len(seen)
    horse.generate("A ball.", seconds=0.2, steps=1, width=64, height=64)
    files = [file for part in T2V for file in (horse.folder / part).glob("*.safetensors")]
    assert described and seen[-1][0] == seen[-1][1] > sum(file.stat().st_size for file in files)


def test_a_cancelled_download_of_a_repo_of_ours_keeps_the_files_that_are_whole(own):
    own.bytes_per_second = 2_000_000

    def cancel(done, total):
        if done > total / 2 > 20_000:
            raise Stopped

    with pytest.raises(Stopped):
        hub.download(OWN, cancel)
    own.bytes_per_second = None
    whole = weights_in(own)
    own.requests.clear()
    assert whole
    assert run("download", OWN) == 0
    assert weights_sent(own) == {*hub.COMPONENTS} - whole
    assert run("check", OWN) == 0


def weights_in(server):
    """The components whose weights are whole in the cache."""
    cache = server.root.parent / "here/cache"
    return {file.parent.name for file in cache.rglob("snapshots/*/*/*.safetensors")}


def test_a_cancel_takes_effect_at_once_though_the_network_hangs(own):
    own.faults += [Fault("stall", 1000, after=1, seconds=60, match=".safetensors")]
    times: list[float] = []

    def cancel(done, total):
        times.append(time.monotonic())
        if own.faults[0].times < 1000 and len(times) > 20:
            raise Stopped

    with pytest.raises(Stopped):
        hub.download(OWN, cancel)
    assert max(b - a for a, b in zip(times, [*times[1:], time.monotonic()], strict=True)) < 1


def test_a_bar_shows_what_is_fetched_of_a_repo(own, capsys):
    assert run("download", OWN) == 0
    shown = capsys.readouterr().err
    assert "Fetching" in shown and "Reconstruct" not in shown


@pytest.mark.parametrize(
    ("name", "value", "code", "said"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1", 2, "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY as set"),
        ("HTTP_PROXY", "nonsense://127.0.0.1:1", 2, "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY as set"),
        ("HTTP_PROXY", "http://127.0.0.1:1", 1, "the Hub (is not responding|is not reachable)"),
        ("HF_TOKEN", "tökén", 2, "set HF_TOKEN again"),
    ],
)
@pytest.mark.parametrize("model", ["magihuman-distill", OWN])
def test_settings_that_are_wrong_are_said_in_plain_words(own, tmp_path, name, value, code, said, model):
    places = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": own.endpoint, "HF_HUB_OFFLINE": "0"}
    environment = {k: v for k, v in os.environ.items() if "PROXY" not in k.upper()} | places | {name: value}
    command = [sys.executable, "-m", "mlx_happyhorse", "download", model]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("Error: ")) == (code, 1) and re.search(said, done.stderr)


def test_a_cache_that_cannot_be_written_is_said_in_plain_words(own, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    assert run("download", OWN) == 1
    assert "could not be stored in the Hub's cache" in capsys.readouterr().err
