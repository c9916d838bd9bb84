"""The command line as a newcomer meets it, wrong requests included."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
from helpers.commands import SHORT, read_until, run, settings_in
from helpers.sounds import speech, write
from PIL import Image

from mlx_happyhorse import Clip, HappyHorse, cli

pytestmark = pytest.mark.usefixtures("in_empty_folder")

READ_ONLY = "/proc" if sys.platform == "linux" else "/System"


def test_a_prompt_becomes_a_playable_file(tmp_path, capsys):
    assert run("generate", "A red ball bounces.", "-o", "ball.mp4", *SHORT) == 0
    shown = capsys.readouterr().err
    assert "untrained" in shown
    assert "Denoising" in shown and "1/1" in shown and "left" in shown
    assert "ball.mp4: 5 frames of 64×64, 0.20 s, seed 3" in shown
    assert [p.name for p in tmp_path.iterdir()] == ["ball.mp4"]
    with av.open("ball.mp4") as file:
        assert len(list(file.decode(video=0))) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["", *SHORT], "a prompt is required"),
        (["  \n", *SHORT], "a prompt is required"),
        (["x", "--model", "nonsense"], "there is no model 'nonsense'"),
        (["x", "--model", "."], "not a model folder"),
        (["x", "--seconds", "0"], "seconds must be a number from 0.2 to 60"),
        (["x", "--seconds", "nan"], "seconds must be"),
        (["x", "--seconds", "inf"], "seconds must be"),
        (["x", "--steps", "0"], "steps must be a whole number from 1 to 100"),
        (["x", "--width", "31"], "width must be a whole number from 32"),
        (["x", "--height", "9999"], "height must be"),
        (["x", "--seed", "-1"], "seed must be"),
        (["x", "--guidance", "nan"], "guidance must be"),
        (["x", "--guidance", "3"], "has no guidance"),
        (["x", "-o", "clip.txt"], "no video ending"),
        (["x", "-o", "nowhere/clip.mp4"], "nowhere does not exist"),
        (["x", "-o", f"{READ_ONLY}/clip.mp4"], "cannot be written"),
        (["x", "-o", "n" * 240 + ".mp4"], "too long for a file's name"),
        (["x", "--model", "n" * 300], "there is no model"),
        (["x", "--model", ""], "a model is required"),
        (["\udcff\udcfe"], "bytes that are not text"),
    ],
)
def test_wrong_requests_get_a_plain_line_and_exit_2(tmp_path, capsys, arguments, message):
    assert run("generate", *arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert len(shown.strip().split("\n")) <= 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option",
    [
        ["--seconds", "abc"],
        ["--steps", "1.5"],
        ["--seed", "x"],
        ["--oops"],
        ["--neg", "x"],
        ["y"],
        ["--prompt", "y"],
        ["--prompt-file", "y"],
    ],
    ids=" ".join,
)
def test_options_that_cannot_be_get_a_plain_line_and_exit_2(capsys, option):
    with pytest.raises(SystemExit) as stop:
        run("generate", "x", *option)
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Error: ") and len(shown.strip().split("\n")) == 1


def test_a_folder_of_another_kind_is_refused(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text(json.dumps({"model_type": "llama"}))
    assert run("generate", "x", "--model", "other") == 2
    assert "is not a model folder of mlx_happyhorse" in capsys.readouterr().err


def test_a_prompt_beyond_640_tokens_warns_of_what_is_cut(capsys):
    assert run("generate", "blue " * 900 + "zebra", *SHORT) == 0
    shown = capsys.readouterr().err
    assert "tokens and the model reads 640: it is cut at 'blue" in shown.replace("' b", "'b")


def test_a_damaged_model_is_named_and_exits_1(tmp_path, capsys):

    shutil.copytree(HappyHorse.load("tiny").folder, tmp_path / "broken")
    (tmp_path / "broken/audio_vae/model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    assert run("generate", "x", "--model", "broken", *SHORT) == 1
    shown = capsys.readouterr().err
    assert "audio_vae cannot be used: model.safetensors is damaged or not a safetensors file" in shown
    assert not (tmp_path / "clip.mp4").exists()


def test_a_missing_component_is_named_before_the_first_step(tmp_path, capsys):
    shutil.copytree(HappyHorse.load("tiny").folder, tmp_path / "partial")
    shutil.rmtree(tmp_path / "partial/video_decoder")
    assert run("generate", "x", "--model", "partial", *SHORT) == 2
    shown = capsys.readouterr().err
    assert "has no video_decoder" in shown
    assert "Reading" not in shown


def test_a_run_outlives_whoever_watched_it(tmp_path):
    command = [sys.executable, "-m", "mlx_happyhorse", "generate", "x", *SHORT]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        process.stderr.close()
    assert process.returncode == 0
    assert (tmp_path / "clip.mp4").exists()


def test_a_run_needs_no_standard_streams(tmp_path):
    command = f'"{sys.executable}" -m mlx_happyhorse generate x {" ".join(SHORT)} <&- >&- 2>&-'
    assert subprocess.run(command, shell=True).returncode == 0
    assert (tmp_path / "clip.mp4").exists()


def test_an_interruption_waits_for_imports(monkeypatch, capsys):
    """A module whose import is broken off is half there, or crashes."""
    imported = []

    def import_module(name):
        os.kill(os.getpid(), signal.SIGINT)
        imported.append(name)

    monkeypatch.setattr(cli, "import_module", import_module)
    assert run("generate", "x", *SHORT) == 130
    assert imported and "Interrupted" in capsys.readouterr().err


def test_help_and_import_load_neither_pytorch_nor_gradio():
    code = (
        "import sys, mlx_happyhorse\n"
        "from mlx_happyhorse.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'gradio'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_convert_reports_and_refuses(tmp_path, capsys):
    from helpers import networks

    networks.save(networks.published(), tmp_path / "base")
    assert run("convert", "--hf-path", "base", "--mlx-path", "out", "-q", "--q-group-size", "32") == 0
    assert "not quantized: transformer: layers.*.experts.*.gate" in capsys.readouterr().err
    assert run("convert", "--hf-path", "base", "--mlx-path", "out") == 2
    assert run("convert", "--hf-path", "missing", "--mlx-path", "new") == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "out"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_nothing(tmp_path, number):
    command = [sys.executable, "-m", "mlx_happyhorse", "generate", "x", "--steps", "100", "--seconds", "5"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ) as process:
        read_until(process, rb" [1-9]\d*/100")
        asked = time.monotonic()
        process.send_signal(number)
        rest = process.stderr.read().decode()
    assert process.returncode == 128 + number
    assert time.monotonic() - asked < 30
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "change", "code"),
    [
        ("config.json", {"sampling": {}}, 2),
        ("config.json", {"variant": 5}, 2),
        ("transformer/config.json", {"num_heads": 0}, 1),
        ("transformer/config.json", {"num_layers": 10**9}, 1),
        ("transformer/config.json", {"hidden_size": 2**20}, 1),
        ("transformer/config.json", {"quantization": [1]}, 1),
        ("video_decoder/config.json", {"window": 0}, 1),
        ("text_encoder/tokenizer.json", {"model": None}, 1),
        ("text_encoder/config.json", {"type": "audio_vae"}, 1),
    ],
)
def test_a_nonsense_config_is_named(tmp_path, capsys, file, change, code):
    shutil.copytree(HappyHorse.load("tiny").folder, tmp_path / "odd")
    path = tmp_path / "odd" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert run("generate", "x", "--model", "odd", *SHORT) == code
    shown = capsys.readouterr().err
    assert "odd" in shown.split("Error: ")[1] and "--verbose" not in shown
    assert not (tmp_path / "clip.mp4").exists()


def test_settings_for_an_upscaler_alone_are_said_to_do_nothing(capsys):
    assert run("generate", "x", *SHORT, "--upscale-guidance", "3") == 0
    assert "upscale_guidance has no effect without upscale" in capsys.readouterr().err


def test_prompts_come_from_files_and_pipes(tmp_path, monkeypatch):
    (tmp_path / "prompt.txt").write_text("Ein Ball.\n\nWellen.\n", encoding="utf-8")
    assert run("generate", "--prompt-file", "prompt.txt", *SHORT, "-o", "a.mp4") == 0
    pipe = io.TextIOWrapper(io.BytesIO(b"Ein Ball.\n\nWellen."))
    monkeypatch.setattr(sys, "stdin", pipe)
    assert run("generate", "-", *SHORT, "-o", "b.mp4") == 0
    assert run("generate", "--prompt", "Ein Ball.\n\nWellen.", *SHORT, "-o", "c.mp4") == 0
    assert settings_in("a.mp4") == settings_in("b.mp4") == settings_in("c.mp4")


FOREIGN = {"made_with": "another", "format": 1}
LATER = {"made_with": "mlx_happyhorse", "format": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a prompt is required"),
        (["--prompt-file", "missing.txt"], "missing.txt cannot be read"),
        (["--prompt-file", "binary.txt"], "is not UTF-8 text"),
        (["--dialogue", "Man, English: hi"], "need a prompt"),
        (["x", "--dialogue", "hi"], "write it as 'speaker, language: text'"),
        (["x", "--image", "missing.png"], "missing.png cannot be opened: No such file"),
        (["x", "--image", "~no-such-person/a.png"], "a home folder that does not exist"),
        (["x", "--image", ""], "the path is empty"),
        (["x", "--image", "empty"], "empty is empty"),
        (["x", "--image", "."], "cannot be opened: Is a directory"),
        (["x", "--image", "noise.wav"], "not a picture in a known format"),
        (["x", "--audio", "missing.wav"], "missing.wav cannot be opened: No such file"),
        (["x", "--audio", "empty"], "cannot be read as a recording"),
        (["x", "--audio", "picture.png"], "is not a recording, or it is damaged: save it as wav"),
        (["x", "--audio", "short.wav"], "lasts 0.01 s, too short"),
        (["x", "--audio", "long.wav"], "longer than 60 s"),
        (["x", "--upscale", "540p", "--width", "2048", "--height", "2048"], "no smaller than"),
        (["x", "--upscale", "540p", "--model", "small"], "has no upscaler_540p"),
        (["--config-from-metadata", "missing.mp4"], "missing.mp4 cannot be read: No such file"),
        (["--config-from-metadata", "empty"], "is not a clip made by mlx_happyhorse"),
        (["--config-from-metadata", "foreign.json"], "made by another program"),
        (["--config-from-metadata", "later.json"], "format 2, but this version reads 1: update"),
        (["--config-from-metadata", "list.json"], "made by another program"),
        (["--config-from-metadata", "bad.json"], "seconds must be"),
        (["--config-from-metadata", "sized.json"], "a size must be"),
        (["--config-from-metadata", "pictured.json"], "to repeat it without"),
        (["--config-from-metadata", "unseeded.json"], "cannot be repeated"),
        (["--config-from-metadata", "climbing.json"], "damaged settings: seed is 'x/../../y'"),
        (["--config-from-metadata", "unnamed.json"], "damaged settings: model is"),
        (["--config-from-metadata", "huge.json"], "made by another program"),
        (["--config-from-metadata", "plain.mp4"], "made by another program"),
    ],
)
def test_wrong_inputs_get_a_plain_line_and_exit_2(tmp_path, capsys, arguments, message):
    good = {"made_with": "mlx_happyhorse", "format": 1, "prompt": "x", "seed": 1, "model": "tiny"}
    good |= {"weights": {}, "versions": {}}
    for name, values in {
        "foreign": FOREIGN,
        "later": LATER,
        "list": [1],
        "bad": good | {"seconds": "long"},
        "sized": good | {"upscale": "540p", "upscale_size": 5},
        "pictured": good | {"image": {"path": None, "sha256": "0"}},
        "unseeded": good | {"seed": None},
        "climbing": good | {"seed": "x/../../y"},
        "unnamed": good | {"model": ["a"]},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    (tmp_path / "huge.json").write_text(json.dumps(good).replace("1", "1" * 5000))
    (tmp_path / "empty").touch()
    (tmp_path / "prompt.txt").write_text("x")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    Image.new("RGB", (8, 8)).save("picture.png")
    write(tmp_path / "noise.wav", speech(0.5))
    write(tmp_path / "short.wav", speech(0.01))
    write(tmp_path / "long.wav", np.tile(speech(1, 8000), 61), 8000)
    Clip(np.zeros((2, 32, 32, 3), np.uint8), np.zeros((3528, 2), np.float32)).save("plain.mp4")
    shutil.copytree(HappyHorse.load("tiny").folder, "small", ignore=lambda *_: ["upscaler_540p"])
    there = sorted(tmp_path.rglob("*"))
    assert run("generate", *arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown and "Traceback" not in shown
    assert len(shown.strip().split("\n")) <= 2
    assert sorted(tmp_path.rglob("*")) == there
