"""Models of ours that somebody published: a run fetches what it needs, once."""

import shutil

import numpy as np
import pytest
from commands import run
from hub_server import HubServer
from huggingface_hub import constants
from served import asking, damage, weights_sent

from mlx_happyhorse import HappyHorse, hub

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
    assert f"{OWN} is not on this machine" in capsys.readouterr().err
    assert not own.requests


def test_a_damaged_file_of_a_repo_of_ours_is_fetched_again(own, capsys):
    assert run("download", OWN) == 0
    file = hub.find(OWN) / "transformer/model.safetensors"
    data = damage(file)
    own.requests.clear()
    assert run("check", OWN) == 1
    assert "transformer/model.safetensors: is not what it was" in capsys.readouterr().err
    assert run("check", OWN, "--fix") == 0
    assert file.read_bytes() == data and weights_sent(own) == {"transformer"}
