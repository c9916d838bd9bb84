"""The command line as a newcomer meets it, wrong requests included."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
from PIL import Image
from sounds import speech, write

from mlx_happyhorse import Clip, HappyHorse, HappyHorseError, Latents, cli, metadata, request

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
        (["x", "-o", "n" * 240 + ".mp4"], "too long for a file's name"),
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


@pytest.mark.parametrize(
    "option",
    [
        ["--seconds", "abc"],
        ["--steps", "1.5"],
        ["--seed", "x"],
        ["--oops"],
        ["--neg", "x"],
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
    assert run("generate", "x", "--model", "partial", *SHORT) == 2
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


def read_until(process, pattern):
    """What the process shows, up to something that matches."""
    shown = b""
    while not re.search(pattern, shown):
        piece = os.read(process.stderr.fileno(), 4096)
        assert piece, shown
        shown += piece
    return shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(tmp_path, number):
    command = [sys.executable, "-m", "mlx_happyhorse", "generate", "x", "--steps", "100", "--seconds", "5"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ) as process:
        read_until(process, rb" [1-9]\d*/100")
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


def frames_of(path):
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray() for frame in file.decode(video=0)])


def settings_in(path):
    return metadata.read(path)


def test_a_clip_is_repeated_from_what_it_says_of_itself(tmp_path, capsys):
    Image.fromarray(np.full((30, 50, 3), 90, np.uint8)).save("a.png")
    write(tmp_path / "a.flac", speech(0.4), codec="flac")
    made = ["A ball.", "--image", "a.png", "--audio", "a.flac", "--steps", "2", "--metadata"]
    assert run("generate", *made, "--dialogue", "Man, English: hi", "-o", "one.mp4") == 0
    for source in ("one.mp4", "one.json"):
        assert run("generate", "--config-from-metadata", source, "-o", "two.mp4") == 0
    assert run("generate", "--config-from-metadata", "one.mp4", "--seed", "5", "-o", "other.mp4") == 0
    assert "will not be the same" not in capsys.readouterr().err
    assert np.array_equal(frames_of("one.mp4"), frames_of("two.mp4"))
    assert np.array_equal(frames_of("one.mp4"), frames_of("two_1.mp4"))
    assert not np.array_equal(frames_of("one.mp4"), frames_of("other.mp4"))
    settings = settings_in("one.mp4")
    assert settings == settings_in("two.mp4") == json.loads((tmp_path / "one.json").read_text())
    assert settings["prompt"].startswith('A ball.\n\nDialogue:\n<Man, English>: "hi"')
    assert settings["seed"] != settings_in("other.mp4")["seed"] == 5
    assert settings["versions"].keys() == {"mlx_happyhorse", "mlx", "python"}


def test_what_is_said_besides_wins_and_takes_along_what_followed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(request.UPSCALED, "540p", (96, 128))
    write(tmp_path / "a.wav", speech(0.4))
    write(tmp_path / "b.wav", speech(0.7))
    Image.new("RGB", (64, 96), "red").save("tall.png")
    small = ["--width", "96", "--height", "64", "--steps", "1"]
    assert run("generate", "x", "--audio", "a.wav", *small, "-o", "a.mp4") == 0
    again = ["generate", "--config-from-metadata", "a.mp4", "-o", "b.mp4"]
    assert run(*again, "--audio", "b.wav", "--upscale", "540p") == 0
    assert [len(frames_of(name)) for name in ("a.mp4", "b.mp4")] == [13, 21]
    assert "not be the same" not in capsys.readouterr().err
    assert run(*again, "--image", "tall.png") == 0
    assert settings_in("b_1.mp4")["height"] > settings_in("b_1.mp4")["width"]


def test_what_a_clip_had_can_be_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(request.UPSCALED, "540p", (96, 128))
    write(tmp_path / "a.wav", speech(0.4))
    Image.new("RGB", (64, 96), "red").save("tall.png")
    inputs = ["--image", "tall.png", "--audio", "a.wav", "--upscale", "540p", "--upscale-guidance", "2"]
    assert run("generate", "x", *SHORT, *inputs, "-o", "a.mp4") == 0
    again = ["generate", "--config-from-metadata", "a.mp4", "-o", "b.mp4"]
    assert run(*again, "--no-image", "--no-audio", "--no-upscale") == 0
    assert run("generate", "x", *SHORT, "-o", "plain.mp4") == 0
    assert np.array_equal(frames_of("b.mp4"), frames_of("plain.mp4"))
    assert settings_in("b.mp4") == settings_in("plain.mp4")
    assert "without upscale" not in capsys.readouterr().err


def test_another_kind_of_model_takes_its_own_steps_and_guidance(tmp_path, capsys):
    assert run("generate", "x", *SHORT, "--metadata") == 0
    settings = json.loads((tmp_path / "clip.json").read_text())
    settings |= {"variant": "base", "steps": 32, "guidance": 5.0}
    (tmp_path / "base.json").write_text(json.dumps(settings))
    again = ["generate", "--config-from-metadata", "base.json", "--model", "tiny"]
    assert run(*again, "-o", "own.mp4") == 0
    assert run(*again, "-o", "said.mp4", "--steps", "2") == 0
    assert run(*again, "--guidance", "3") == 2
    assert [settings_in(f"{name}.mp4")["steps"] for name in ("own", "said")] == [8, 2]
    assert settings_in("own.mp4")["guidance"] == 1


def test_an_odd_name_does_not_cost_the_clip(tmp_path):
    name = os.fsdecode(b"\xff.png")
    Image.new("RGB", (64, 64), "red").save(tmp_path / name)
    assert run("generate", "x", "--image", name, *SHORT) == 0
    assert settings_in("clip.mp4")["image"]["path"] == r"\udcff.png"


def test_settings_for_an_upscaler_alone_are_said_to_do_nothing(capsys):
    assert run("generate", "x", *SHORT, "--upscale-guidance", "3") == 0
    assert "upscale_guidance does nothing without upscale" in capsys.readouterr().err


def test_what_changed_since_is_said_before_the_run(tmp_path, capsys):
    Image.new("RGB", (64, 64), "red").save("a.png")
    assert run("generate", "x", "--image", "a.png", *SHORT, "--metadata") == 0
    Image.new("RGB", (64, 64), "blue").save("a.png")
    settings = json.loads((tmp_path / "clip.json").read_text())
    settings["weights"]["transformer"] = "other"
    settings["versions"]["mlx"] = "\x1b[2J"
    (tmp_path / "clip.json").write_text(json.dumps(settings))
    capsys.readouterr()
    assert run("generate", "--config-from-metadata", "clip.json") == 0
    shown = capsys.readouterr().err
    assert "not be the same clip: image has changed, the weights of transformer are others" in shown
    assert "mlx was ?[2J" in shown and "\nNote: this will not" in f"\n{shown}"


def test_info_shows_what_a_clip_was_made_of(capsys):
    assert run("generate", "A red\x1b[31m ball.", *SHORT) == 0
    assert run("info", "clip.mp4") == 0
    shown = capsys.readouterr().out
    assert "model             tiny" in shown and "seed              3" in shown
    assert "prompt\nA red?[31m ball." in shown


def test_info_may_be_cut_short(tmp_path):
    assert run("generate", "x", *SHORT) == 0
    command = [sys.executable, "-m", "mlx_happyhorse", "info", "clip.mp4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_several_seeds_and_names_that_are_taken(tmp_path):
    assert run("generate", "x", *SHORT[:-2], "--seed", "1", "2", "-o", "a.mp4") == 0
    assert run("generate", "x", *SHORT[:-2], "--seed", "1", "2", "-o", "b{seed}.mp4") == 0
    assert run("generate", "x", *SHORT[:-2], "--seed", "2", "-o", "b{seed}.mp4") == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.mp4",
        "a_1.mp4",
        "b1.mp4",
        "b2.mp4",
        "b2_1.mp4",
    ]
    assert np.array_equal(frames_of("a_1.mp4"), frames_of("b2_1.mp4"))


def test_prompts_come_from_files_and_pipes(tmp_path, monkeypatch):
    (tmp_path / "prompt.txt").write_text("Ein Ball.\n\nWellen.\n", encoding="utf-8")
    assert run("generate", "--prompt-file", "prompt.txt", *SHORT, "-o", "a.mp4") == 0
    pipe = io.TextIOWrapper(io.BytesIO(b"Ein Ball.\n\nWellen."))
    monkeypatch.setattr(sys, "stdin", pipe)
    assert run("generate", "-", *SHORT, "-o", "b.mp4") == 0
    assert run("generate", "--prompt", "Ein Ball.\n\nWellen.", *SHORT, "-o", "c.mp4") == 0
    assert settings_in("a.mp4") == settings_in("b.mp4") == settings_in("c.mp4")


def test_latents_that_are_kept_are_decoded_and_upscaled(tmp_path, monkeypatch):
    monkeypatch.setitem(request.UPSCALED, "540p", (96, 128))
    assert run("generate", "x", *SHORT, "--save-latents") == 0
    assert run("generate", "x", *SHORT, "--upscale", "540p", "-o", "at_once.mp4") == 0
    assert run("upscale", "clip.mp4") == 0
    assert run("decode", "clip.latents.safetensors", "-o", "again.mp4") == 0
    assert np.array_equal(frames_of("clip.mp4"), frames_of("again.mp4"))
    assert np.array_equal(frames_of("clip_540p.mp4"), frames_of("at_once.mp4"))
    assert run("upscale", "at_once.mp4") == 2
    assert run("upscale", "clip.latents.safetensors", "--no-align-corners") == 0
    assert (tmp_path / "clip_540p_1.mp4").exists()


def test_latents_outlive_a_decoder_that_fails(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(HappyHorse, "decode_video", fail)
        assert run("generate", "x", *SHORT, "--save-latents") == 1
    shown = capsys.readouterr().err
    assert "out of memory" in shown and "happyhorse decode clip.latents.safetensors" in shown
    assert [p.name for p in tmp_path.iterdir()] == ["clip.latents.safetensors"]
    assert run("decode", "clip.latents.safetensors") == 0
    assert (tmp_path / "clip.mp4").exists()


def test_latents_that_cannot_be_kept_do_not_cost_the_clip(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise HappyHorseError("the disk is full")

    monkeypatch.setattr(Latents, "save", fail)
    assert run("generate", "x", *SHORT, "--save-latents") == 1
    assert "the disk is full" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_nothing_beside_a_clip_is_overwritten(tmp_path):
    assert run("generate", "x", *SHORT, "--save-latents") == 0
    (tmp_path / "clip_1.json").write_text("mine")
    assert run("decode", "clip.latents.safetensors", "--metadata") == 0
    assert (tmp_path / "clip_1.json").read_text() == "mine"
    assert (tmp_path / "clip_2.json").exists() and (tmp_path / "clip_2.mp4").exists()


def test_a_run_stopped_while_decoding_ends_there(tmp_path, monkeypatch, capsys):
    decode_audio = HappyHorse.decode_audio
    stops = iter([KeyboardInterrupt])

    def stop_once(self, latents):
        for stop in stops:
            raise stop
        return decode_audio(self, latents)

    monkeypatch.setattr(HappyHorse, "decode_audio", stop_once)
    assert run("generate", "x", *SHORT, "--seed", "2", "--keep-stopped") == 130
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    assert run("generate", "x", *SHORT[:-2], "--seed", "1", "2", "--keep-stopped") == 0
    assert len(list(tmp_path.iterdir())) == 3


def test_a_stopped_run_decodes_what_it_has_when_asked_to(tmp_path):
    options = ["--steps", "100", "--seconds", "1", "--keep-stopped", "--save-latents"]
    command = [sys.executable, "-m", "mlx_happyhorse", "generate", "x", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        shown = read_until(process, rb" ([2-9]|\d\d)/100")  # at 1 its latents may not be seen yet
        process.send_signal(signal.SIGINT)
        shown += process.stderr.read()
    assert process.returncode == 130
    stopped = settings_in("clip.mp4")["stopped"]
    assert stopped.startswith("denoise after step") and stopped.encode() in shown
    assert len(frames_of("clip.mp4")) == 25
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.latents.safetensors", "clip.mp4"]


FOREIGN = {"made_with": "another", "format": 1}
LATER = {"made_with": "mlx_happyhorse", "format": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a prompt"),
        (["--prompt-file", "missing.txt"], "missing.txt cannot be read"),
        (["--prompt-file", "binary.txt"], "is no text"),
        (["--dialogue", "Man, English: hi"], "need the prompt that they belong to"),
        (["x", "--dialogue", "hi"], "write it as 'speaker, language: text'"),
        (["x", "--image", "missing.png"], "missing.png cannot be opened: No such file"),
        (["x", "--image", "empty"], "empty is empty"),
        (["x", "--image", "."], "cannot be opened: Is a directory"),
        (["x", "--image", "noise.wav"], "not a picture in a known format"),
        (["x", "--audio", "missing.wav"], "missing.wav cannot be opened: No such file"),
        (["x", "--audio", "empty"], "cannot be read as a recording"),
        (["x", "--audio", "picture.png"], "cannot be read as a recording"),
        (["x", "--audio", "short.wav"], "lasts 0.01 s, too short"),
        (["x", "--audio", "long.wav"], "longer than 60 s"),
        (["x", "--upscale", "540p", "--width", "2048", "--height", "2048"], "no smaller than"),
        (["x", "--upscale", "540p", "--model", "small"], "holds no upscaler to 540p"),
        (["--config-from-metadata", "missing.mp4"], "missing.mp4 cannot be read: No such file"),
        (["--config-from-metadata", "empty"], "is no video file"),
        (["--config-from-metadata", "foreign.json"], "made by something else"),
        (["--config-from-metadata", "later.json"], "format 2, this version reads 1: update"),
        (["--config-from-metadata", "list.json"], "made by something else"),
        (["--config-from-metadata", "bad.json"], "seconds must be"),
        (["--config-from-metadata", "sized.json"], "a size is"),
        (["--config-from-metadata", "pictured.json"], "its image was no file: name one with --image"),
        (["--config-from-metadata", "unseeded.json"], "cannot be repeated"),
        (["--config-from-metadata", "climbing.json"], "damaged settings: seed is 'x/../../y'"),
        (["--config-from-metadata", "unnamed.json"], "damaged settings: model is"),
        (["--config-from-metadata", "huge.json"], "made by something else"),
        (["--config-from-metadata", "plain.mp4"], "made by something else"),
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
