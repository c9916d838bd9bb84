"""The command line as a newcomer meets it, wrong requests included."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import av
import pytest

from mlx_happyhorse import HappyHorse, cli

SHORT = ["--seconds", "0.2", "--steps", "1", "--width", "64", "--height", "64", "--seed", "3"]
READ_ONLY = "/proc" if sys.platform == "linux" else "/System"


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def run(*arguments):
    return cli.main(list(arguments))


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
        (["", *SHORT], "the prompt is empty"),
        (["  \n", *SHORT], "the prompt is empty"),
        (["x", "--model", "nonsense"], "there is no model 'nonsense'"),
        (["x", "--model", "some/repo"], "'some/repo' is neither a folder here nor a repo"),
        (["x", "--model", "."], "not a model folder"),
        (["x", "--seconds", "0"], "seconds must be a number from 0.2 to 60"),
        (["x", "--seconds", "nan"], "seconds must be"),
        (["x", "--seconds", "inf"], "seconds must be"),
        (["x", "--steps", "0"], "steps must be a whole number from 1 to 100"),
        (["x", "--width", "31"], "width must be a whole number from 32"),
        (["x", "--height", "9999"], "height must be"),
        (["x", "--seed", "-1"], "seed must be"),
        (["x", "--guidance", "nan"], "guidance must be"),
        (["x", "--guidance", "3"], "works without guidance"),
        (["x", "-o", "clip.txt"], "no video ending"),
        (["x", "-o", "nowhere/clip.mp4"], "nowhere does not exist"),
        (["x", "-o", f"{READ_ONLY}/clip.mp4"], "cannot be written"),
        (["x", "-o", "n" * 300 + ".mp4"], "cannot be written"),
        (["x", "--model", "n" * 300], "there is no model"),
        (["x", "--model", ""], "name a model"),
        (["\udcff\udcfe"], "bytes that are no text"),
    ],
)
def test_wrong_requests_get_a_plain_line_and_exit_2(tmp_path, capsys, arguments, message):
    assert run("generate", *arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert len(shown.strip().split("\n")) <= 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--seconds", "abc"], ["--steps", "1.5"], ["--seed", "x"], ["--oops"]])
def test_what_is_not_a_number_gets_a_plain_line_and_exit_2(capsys, option):
    with pytest.raises(SystemExit) as stop:
        run("generate", "x", *option)
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Error: ") and len(shown.strip().split("\n")) == 1


def test_a_folder_of_another_kind_is_refused(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text(json.dumps({"model_type": "llama"}))
    assert run("generate", "x", "--model", "other") == 2
    assert "not a model folder of ours" in capsys.readouterr().err


def test_a_prompt_beyond_640_tokens_warns_of_what_is_cut(capsys):
    assert run("generate", "blue " * 900 + "zebra", *SHORT) == 0
    shown = capsys.readouterr().err
    assert "tokens and the model reads 640: cut from 'blue" in shown.replace("' b", "'b")


def test_a_damaged_model_is_named_and_exits_1(tmp_path, capsys):

    shutil.copytree(HappyHorse.load("tiny").folder, tmp_path / "broken")
    (tmp_path / "broken/audio_vae/model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    assert run("generate", "x", "--model", "broken", *SHORT) == 1
    shown = capsys.readouterr().err
    assert "audio_vae cannot be used: model.safetensors is damaged or no safetensors file" in shown
    assert not (tmp_path / "clip.mp4").exists()


def test_a_missing_component_is_named_before_the_first_step(tmp_path, capsys):
    shutil.copytree(HappyHorse.load("tiny").folder, tmp_path / "partial")
    shutil.rmtree(tmp_path / "partial/video_decoder")
    assert run("generate", "x", "--model", "partial", *SHORT) == 1
    shown = capsys.readouterr().err
    assert "holds no video_decoder" in shown
    assert "Reading" not in shown


def test_a_run_outlives_whoever_watched_it(tmp_path):
    command = [sys.executable, "-m", "mlx_happyhorse", "generate", "x", *SHORT]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        process.stderr.close()
    assert process.returncode == 0
    assert (tmp_path / "clip.mp4").exists()


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
    import networks

    networks.save(networks.published(), tmp_path / "base")
    assert run("convert", "--hf-path", "base", "--mlx-path", "out", "-q", "--q-group-size", "32") == 0
    assert "left in full: transformer: layers.*.experts.*.gate" in capsys.readouterr().err
    assert run("convert", "--hf-path", "base", "--mlx-path", "out") == 2
    assert run("convert", "--hf-path", "missing", "--mlx-path", "new") == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "out"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(tmp_path, number):
    command = [sys.executable, "-m", "mlx_happyhorse", "generate", "x", "--steps", "100", "--seconds", "5"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ) as process:
        shown = b""
        while b"2/100" not in shown:
            piece = os.read(process.stderr.fileno(), 4096)
            assert piece, shown
            shown += piece
        asked = time.monotonic()
        process.send_signal(number)
        rest = process.stderr.read().decode()
    assert process.returncode == (130 if number == signal.SIGINT else 143)
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
