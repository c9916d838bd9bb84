"""The README's scripts run as they stand."""

import re
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.demo_server import Server, serving
from helpers.sounds import speech, write
from PIL import Image

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EVERY = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SERVED = "http://127.0.0.1:7860"  # of scripts that talk to the page's server
SCRIPTS = [script for script in EVERY if SERVED not in script]


@pytest.mark.parametrize("script", SCRIPTS, ids=[f"script{i}" for i in range(len(SCRIPTS))])
@pytest.mark.filterwarnings("ignore:tiny")
def test_script(script, tmp_path, monkeypatch):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)).save(
        tmp_path / "face.jpg"
    )
    write(tmp_path / "voice.wav", speech(0.9))
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "README.md", "exec"), {})
    clips = list(tmp_path.glob("*.mp4"))
    assert clips
    for clip in clips:
        with av.open(str(clip)) as file:
            assert sum(1 for _ in file.decode(video=0)) > 0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("gradio")
    with serving(Server(tmp_path_factory.mktemp("readme"), "--mcp")) as server:
        yield server


@pytest.mark.parametrize("script", [script for script in EVERY if SERVED in script], ids=["client", "mcp"])
def test_a_program_talks_to_the_page(script, server, capsys):
    exec(compile(script.replace(SERVED, server.address), "README.md", "exec"), {})
    assert ".mp4" in capsys.readouterr().out


def test_there_is_a_script_for_every_mode():
    assert len(SCRIPTS) == 5
