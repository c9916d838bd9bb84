"""Models from the Hub: fetched by byte ranges, whatever the network does, and resumed after a stop."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import mlx.core as mx
import pytest
from helpers import published
from helpers.commands import SHORT, frames_of, run
from helpers.hub_server import Fault, HubServer
from helpers.published import MAGIHUMAN, STABLE_AUDIO, T5GEMMA, WAN
from helpers.served import asking, damage, same, states, weights_sent

from mlx_happyhorse import HappyHorse
from mlx_happyhorse.convert import Planned, Quantization, convert, download
from mlx_happyhorse.convert.read import checkpoint, repo
from mlx_happyhorse.convert.write import shards
from mlx_happyhorse.errors import HubError

T2V = ("transformer", "text_encoder", "video_decoder", "audio_vae")
GET_T2V = ("download", "magihuman-distill", "--q-bits", "4", "--components", *T2V)
GET_DECODER = ("download", "magihuman-distill", "--components", "video_decoder")
HEADERS = 200_000  # bytes that may be fetched beside the tensors
UNDER_WAY = 2_000_000  # of tensors that a kill may have cut off


class Model(NamedTuple):
    """A downloaded one, all that was fetched for it, and how much of that was the tokenizer."""

    folder: Path
    fetched: int
    tokenizer: int


@pytest.fixture(scope="module")
def model(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("downloaded")
    with HubServer(root, redirect=True) as server:
        subprocess.run(**command(server, folder, T2V), check=True)
        tokenizer = f"{T5GEMMA}/resolve/{server.commit(T5GEMMA)}/tokenizer.json"
        return Model(folder / "models/magihuman-distill-4bit", server.sent(), server.sent(tokenizer))


@pytest.fixture
def server(root, tmp_path):
    with HubServer(root) as server, asking(server, tmp_path):
        yield server


@pytest.fixture
def home(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def copy(model, home):
    """The downloaded model at another place, where it may be changed."""
    return shutil.copytree(model.folder, home / model.folder.name)


@pytest.fixture
def waits(monkeypatch):
    """The pauses between attempts, which are not made."""
    waits: list[float] = []
    monkeypatch.setattr(repo, "time", SimpleNamespace(sleep=waits.append))
    return waits


def command(server: HubServer, folder: Path, parts: Sequence[str]) -> dict[str, Any]:
    """A download in a process of its own, for `subprocess`."""
    arguments = [sys.executable, "-m", "mlx_happyhorse", *GET_T2V[:4], "--components", *parts]
    places = {"HF_HOME": str(folder / "hub"), "HAPPYHORSE_HOME": str(folder / "models")}
    environment = os.environ | places | {"HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0"}
    return {"args": arguments, "env": environment, "stderr": subprocess.DEVNULL}


def test_a_downloaded_model_is_what_conversion_makes(root, model, tmp_path):
    gair = root / MAGIHUMAN
    sources = gair / "distill", gair / "turbo_vae", root / T5GEMMA, root / STABLE_AUDIO / "model.safetensors"
    convert(sources, tmp_path / "out", quantization=Quantization(4, 64))
    for files in ("*.safetensors", "tokenizer.json"):
        assert same(model.folder, tmp_path / "out", files)


def test_it_is_found_by_its_name_and_makes_a_clip(copy, server, tmp_path):
    assert run("generate", "A ball.", *SHORT, "-m", "magihuman-distill", "-o", str(tmp_path / "a.mp4")) == 0
    assert frames_of(tmp_path / "a.mp4").any()
    assert not server.requests


def test_little_more_is_fetched_than_is_used(root, model):
    used = published.used(root)
    assert 0 < model.fetched - sum(used[part] for part in T2V) < 0.02 * sum(used[part] for part in T2V)


def test_the_tokenizer_is_fetched_once(root, model):
    assert model.tokenizer == (root / T5GEMMA / "tokenizer.json").stat().st_size


def test_a_tokenizer_may_be_larger_than_settings_are(server, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_JSON_BYTES", 50_000)
    assert run("download", "magihuman-distill", "--components", "text_encoder") == 0


def test_nothing_of_the_sources_is_kept(model):
    top = model.folder.parents[1]
    assert [item.name for item in top.iterdir()] == ["models"]
    assert [item.name for item in (top / "models").iterdir()] == [model.folder.name]
    assert {item.name for item in model.folder.iterdir()} == {*T2V, "config.json", "README.md"}
    stored = {"SHA256SUMS", "config.json", "model.safetensors", "quantization.json", "tokenizer.json"}
    assert {file.name for part in T2V for file in (model.folder / part).iterdir()} == stored


def test_a_plan_says_what_will_be_fetched_and_stored(root, model, server, home):
    plan: list[Planned] = []
    how = Quantization(4, 64)
    download("magihuman-distill", components=T2V, quantization=how, dry_run=True, on_plan=plan.extend)
    used = published.used(root)
    assert [part.component for part in plan] == [*T2V]
    for part in plan:
        assert 0 <= used[part.component] - part.fetched < 100  # some small ones are looked at before
        stored = sum(file.stat().st_size for file in (model.folder / part.component).iterdir())
        assert 0 <= stored - part.stored < 0.1 * stored


def test_a_dry_run_shows_sizes_and_licences_and_neither_fetches_nor_writes(root, server, home, capsys):
    assert run(*GET_T2V, "--dry-run") == 0
    shown = capsys.readouterr().err
    for pattern in (
        r"transformer +10 MB → +2\S* MB  GAIR/daVinci-MagiHuman: Apache-2.0",
        r"text_encoder .* google/t5gemma-9b-9b-ul2: Gemma Terms of Use",
        r"audio_vae .* stabilityai/stable-audio-open-1.0: Stability AI Community License",
        r"total +13 MB → +4\S* MB",
    ):
        assert re.search(pattern, shown)
    assert server.sent() < 0.02 * sum(published.used(root)[part] for part in T2V)
    assert not home.exists()


FAULTS = {
    "drop": Fault("drop", 3, after=1),
    "reset": Fault("reset", 3, after=1),
    "stall": Fault("stall", 3, after=1, seconds=60),
    "429": Fault("status", 3, status=429, retry_after="17"),
    "503": Fault("status", 3, status=503, retry_after=""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_networks_do_is_survived(model, server, home, waits, monkeypatch, fault):
    monkeypatch.setattr(repo, "TIMEOUT", 0.2)
    for _ in range(2):  # in the headers, and among the tensors
        server.faults += [Fault("none", 7), replace(FAULTS[fault])]
    assert run(*GET_DECODER) == 0
    assert same(home / "magihuman-distill-4bit/video_decoder", model.folder / "video_decoder")
    assert waits[:3] == ([17] * 3 if fault == "429" else [1, 2, 4])
    assert len(waits) >= 6


def test_a_server_that_stays_broken_is_given_up_and_resumed_later(model, server, home, waits, capsys):
    server.faults += [Fault("none", 60), Fault("status", 1000)]
    assert run(*GET_DECODER) == 1
    assert "too busy for GAIR/daVinci-MagiHuman (HTTP 503): try again later" in capsys.readouterr().err
    assert [item.name for item in home.iterdir()] == [".magihuman-distill-4bit.partial"]
    server.faults.clear()
    before = server.sent()
    assert run(*GET_DECODER) == 0
    assert server.sent() - before < 0.8 * before
    assert [item.name for item in home.iterdir()] == [model.folder.name]
    assert same(home / model.folder.name / "video_decoder", model.folder / "video_decoder")


@pytest.mark.parametrize("kind", ["whole", "wrong"])
@pytest.mark.parametrize("after", [0, 40])
def test_other_bytes_than_those_asked_for_are_refused(model, server, home, capsys, kind, after):
    server.faults += [Fault("none", after, match=".ckpt"), Fault(kind, match=".ckpt")]
    assert run(*GET_DECODER) == 1
    assert "did not return the requested bytes" in capsys.readouterr().err
    assert run(*GET_DECODER) == 0
    assert same(home / model.folder.name / "video_decoder", model.folder / "video_decoder")


def test_what_is_under_way_when_a_download_fails_is_written_nowhere_else(server, tmp_path):
    server.faults += [Fault("none", 30, match="/model.safetensors")]
    server.faults += [Fault("stall", 3, after=1, seconds=0.3, match="/model.safetensors")]
    server.faults += [Fault("whole", match="/model.safetensors")]
    with pytest.raises(HubError):
        download("magihuman-distill", components=["audio_vae"])
    files = [(tmp_path / f"{i}").open("w+b") for i in range(40)]  # one of them has the old one's number
    time.sleep(0.6)
    assert not any(os.fstat(file.fileno()).st_size for file in files)


def test_gated_repos_are_named_with_their_licence_and_nothing_is_left(root, tmp_path, monkeypatch, capsys):
    get = ("download", "magihuman-distill", "--components", "text_encoder")
    with HubServer(root, gated=[T5GEMMA], tokens=["good"]) as server, asking(server, tmp_path):
        for token in (None, "bad"):
            if token:
                monkeypatch.setenv("HF_TOKEN", token)
            assert run(*get) == 1
            shown = capsys.readouterr().err
            assert f"https://huggingface.co/{T5GEMMA}" in shown and "HF_TOKEN" in shown
            assert not list(tmp_path.rglob("*"))
        monkeypatch.setenv("HF_TOKEN", "good")
        assert run(*get) == 0


def test_the_token_is_not_shown_to_others(root, tmp_path, monkeypatch):
    with HubServer(root, redirect=True) as server, asking(server, tmp_path):
        monkeypatch.setenv("HF_TOKEN", "secret")
        assert run("download", "magihuman-distill", "--components", "audio_vae") == 0
        tokens = {request.path.startswith("/cdn/"): request.token for request in server.requests}
    assert tokens == {False: "secret", True: None}


def test_what_there_is_none_of_is_said(server, home, capsys):
    for name, code, message in (
        ("happyhorse-1.0", 2, "not published. Use the open ones of its design: magihuman-distill"),
        ("magihuman-huge", 2, "unknown model 'magihuman-huge': give magihuman-base, magihuman-distill"),
        ("nobody/nothing", 1, "the Hub has no repo nobody/nothing"),
        (MAGIHUMAN, 2, "config.json"),
        ("one/two/three", 2, "one/two/three"),
    ):
        assert run("download", name) == code
        assert message in capsys.readouterr().err
    assert run("download", "magihuman-base", "--components", "audio") == 2
    assert "unknown component 'audio'" in capsys.readouterr().err
    assert not home.exists() and not weights_sent(server)


def test_a_second_variant_shares_what_is_not_its_own(root, copy, server, home):
    server.requests.clear()
    assert run("download", "magihuman-base", *GET_T2V[2:]) == 0
    for part in T2V[1:]:
        for file in (copy / part).iterdir():
            assert file.samefile(home / "magihuman-base-4bit" / part / file.name)
    own = published.used(root, "base")["transformer"]
    assert server.sent(f"{MAGIHUMAN}/resolve/{server.commit(MAGIHUMAN)}/base") < 1.02 * own
    assert server.sent() < 1.02 * own + 4 * HEADERS
    assert run("check", "magihuman-base") == 0


def test_a_folder_that_is_not_whole_is_shared_with_no_other(copy, server, home):
    (copy / "text_encoder/model.safetensors").unlink()
    assert run("download", "magihuman-base", "--q-bits", "4", "--components", "text_encoder") == 0
    assert run("check", "magihuman-base") == 0


@pytest.mark.parametrize("other", [["magihuman-base"], ["magihuman-distill", "--q-bits", "8"]])
@pytest.mark.parametrize("part", ["transformer", "video_encoder"])
def test_another_model_is_not_mixed_into_one_that_is_there(copy, server, other, part):
    before = states(copy)
    assert run("download", *other, "--components", part, "--mlx-path", str(copy)) == 2
    assert states(copy) == before


def test_a_component_is_added_to_a_model_that_is_there(copy, server, tmp_path):
    before = states(copy / "transformer")
    shutil.move(copy, tmp_path / "elsewhere")
    add = ("download", "magihuman-distill", "--mlx-path", str(tmp_path / "elsewhere"))
    assert run(*add, "--components", "video_encoder") == 0
    assert states(tmp_path / "elsewhere/transformer") == before
    assert {request.path.split("/resolve")[0] for request in server.requests if request.sent} == {f"/{WAN}"}
    horse = HappyHorse.load(tmp_path / "elsewhere")
    assert horse.config["components"] == sorted({*T2V, "video_encoder"})
    assert horse.encode_image(mx.zeros((64, 64, 3))).shape == (1, 4, 4, 48)
    assert run("check", str(tmp_path / "elsewhere")) == 0


def test_the_same_again_does_nothing(copy, server):
    before = states(copy)
    assert run(*GET_T2V) == 0
    assert states(copy) == before and not server.requests


def test_a_killed_download_is_resumed(root, model, tmp_path):
    """Twice: in the transformer, and in the text encoder when the transformer is whole."""
    used = published.used(root)
    with HubServer(root) as server:
        get = command(server, tmp_path, T2V[:2])
        server.bytes_per_second = 4e6
        kill_when(get, lambda: server.sent(MAGIHUMAN) > 0.7 * used["transformer"])
        kill_when(get, lambda: server.sent(T5GEMMA) > 0.5 * used["text_encoder"])
        assert server.sent(MAGIHUMAN) < used["transformer"] + HEADERS + UNDER_WAY
        assert [item.name[0] for item in (tmp_path / "models").iterdir()] == ["."]
        server.requests.clear()
        subprocess.run(**get, check=True)
        assert server.sent(MAGIHUMAN) < HEADERS
    assert [item.name for item in (tmp_path / "models").iterdir()] == [model.folder.name]
    for part in T2V[:2]:
        assert same(tmp_path / "models" / model.folder.name / part, model.folder / part)


def kill_when(get: dict[str, Any], is_time: Callable[[], bool]) -> None:
    with subprocess.Popen(**get) as process:
        while not is_time():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def test_a_download_is_stopped_at_once_though_the_network_hangs(root, tmp_path):
    with HubServer(root) as server:
        server.faults += [Fault("none", 120), hanging := Fault("stall", 1000, after=1, seconds=60)]
        with subprocess.Popen(**command(server, tmp_path, T2V[:1])) as process:
            while hanging.times > 999:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(timeout=3) == 130
            finally:
                process.kill()


def test_a_damaged_shard_is_fetched_and_converted_again_and_no_other(root, server, home, monkeypatch):
    monkeypatch.setattr(shards, "MAX_SHARD_BYTES", 150_000)
    assert run("download", "magihuman-distill", "--components", "text_encoder") == 0
    folder = home / "magihuman-distill-4bit"
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    shards_made = sorted((folder / "text_encoder").glob("*.safetensors"))
    assert len(shards_made) == 4
    damage(shards_made[2])
    server.requests.clear()
    assert run("check", "magihuman-distill") == 1
    assert run("check", "magihuman-distill", "--fix") == 0
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    assert server.sent() < 0.3 * published.used(root)["text_encoder"] + HEADERS


def test_a_conversion_is_published(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "hub").mkdir()
    source = root / MAGIHUMAN / "turbo_vae"
    made = ["--mlx-path", str(tmp_path / "out"), "--variant", "distill", "--overwrite"]
    with HubServer(tmp_path / "hub", tokens=["good"]) as server, asking(server, tmp_path):
        publish = ("convert", "--hf-path", str(source), *made, "--upload-repo", "me/horse")
        assert run(*publish) == 1
        assert "HF_TOKEN" in capsys.readouterr().err
        monkeypatch.setenv("HF_TOKEN", "good")
        assert run(*publish) == 0
        assert "Uploaded to " in capsys.readouterr().err
        assert same(tmp_path / "out", tmp_path / "hub/me/horse")
        assert run("download", "me/horse") == 0
