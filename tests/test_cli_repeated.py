"""Clips that say what they were made of, and are made again."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers.commands import SHORT, frames_of, run, settings_in
from helpers.sounds import speech, write
from PIL import Image

from mlx_happyhorse import HappyHorse
from mlx_happyhorse.inputs import request

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def test_a_clip_is_repeated_from_what_it_says_of_itself(tmp_path, capsys):
    Image.fromarray(np.full((30, 50, 3), 90, np.uint8)).save("a.png")
    write(tmp_path / "a.flac", speech(0.4), codec="flac")
    made = ["A ball.", "--image", "a.png", "--audio", "a.flac", "--steps", "2", "--metadata"]
    assert run("generate", *made, "--dialogue", "Man, English: hi", "-o", "one.mp4") == 0
    for source in ("one.mp4", "one.json"):
        again = ["generate", "--config-from-metadata", source, "--image", "a.png", "--audio", "a.flac"]
        assert run(*again, "-o", "two.mp4") == 0
    assert run(*again, "--seed", "5", "-o", "other.mp4") == 0
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
    assert run(*again, "--image", "tall.png", "--audio", "a.wav") == 0
    assert settings_in("b_1.mp4")["height"] > settings_in("b_1.mp4")["width"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "stranger/horse"}, "made with the model stranger/horse: pass --model stranger/horse"),
        ({"model": "../secret"}, "made with the model ../secret"),
        ({"model": "/etc"}, "made with the model /etc"),
        ({"image": {"path": "a.png", "sha256": "0"}}, "--image a.png: pass --image with the file"),
        ({"image": "a.png"}, "or --no-image to repeat it without"),
        ({"audio": {"path": "/dev/zero"}}, "--audio /dev/zero: pass --audio with the file"),
    ],
)
def test_a_clip_of_a_stranger_opens_no_path_and_fetches_no_model(tmp_path, capsys, changes, message):
    Image.new("RGB", (64, 96), "red").save("a.png")
    assert run("generate", "x", *SHORT, "--metadata") == 0
    settings = json.loads((tmp_path / "clip.json").read_text()) | changes
    (tmp_path / "clip.json").write_text(json.dumps(settings))
    assert run("generate", "--config-from-metadata", "clip.json") == 2
    assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "clip.json", "clip.mp4"]


def test_a_ratio_stands_for_a_size_of_about_as_many_pixels():
    assert run("generate", "x", "--seconds", "0.2", "--steps", "1", "--ratio", "9:16") == 0
    assert (settings_in("clip.mp4")["height"], settings_in("clip.mp4")["width"]) == (224, 128)
    assert run("generate", "x", "--ratio", "7:5") == 2
    assert run("generate", "x", "--ratio", "1:1", "--width", "64") == 2


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


@pytest.mark.filterwarnings("ignore:tiny")
def test_a_size_does_not_outlive_its_upscaling(tmp_path, monkeypatch):
    monkeypatch.setitem(request.UPSCALED, "540p", (96, 128))
    monkeypatch.setitem(request.UPSCALED, "1080p", (128, 128))
    size = {"width": 64, "height": 64, "upscale": "540p", "upscale_size": (96, 96), "upscale_steps": 1}
    HappyHorse.load("tiny").generate("x", seconds=0.2, steps=1, **size).save("a.mp4")
    again = ["generate", "--config-from-metadata", "a.mp4", "-o", "b.mp4"]
    assert run(*again) == run(*again, "--upscale", "1080p") == 0
    assert settings_in("b.mp4")["upscale_size"] == [96, 96]
    assert settings_in("b_1.mp4")["upscale_size"] is None and frames_of("b_1.mp4").shape[2] == 128


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


def test_an_upscaled_clip_is_repeated(monkeypatch):
    monkeypatch.setitem(request.UPSCALED, "1080p", (96, 128))
    upscaled = ["--upscale", "1080p", "--upscale-steps", "2", "--upscale-guidance", "2", "--no-align-corners"]
    assert run("generate", "x", *SHORT, *upscaled, "--upscale-negative-prompt", "noise", "-o", "a.mp4") == 0
    assert run("generate", "--config-from-metadata", "a.mp4", "-o", "b.mp4") == 0
    assert np.array_equal(frames_of("a.mp4"), frames_of("b.mp4"))
    assert settings_in("a.mp4") == settings_in("b.mp4")


@pytest.mark.filterwarnings("ignore:tiny")
def test_a_clip_that_was_stopped_is_said_to_become_another(capsys):
    *_, last = HappyHorse.load("tiny").stream("x", seconds=0.2, width=64, height=64)
    last.latents.settings["stopped"] = "after denoise step 2 of 8"
    replace(last.clip, settings=last.latents.settings).save("a.mp4")
    assert run("generate", "--config-from-metadata", "a.mp4") == 0
    assert "the clip will differ: it was stopped after denoise step 2 of 8" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take no such names")
def test_an_odd_name_does_not_cost_the_clip(tmp_path):
    name = os.fsdecode(b"\xff.png")
    Image.new("RGB", (64, 64), "red").save(tmp_path / name)
    assert run("generate", "x", "--image", name, *SHORT) == 0
    assert settings_in("clip.mp4")["image"]["path"] == r"\udcff.png"


def test_what_changed_since_is_said_before_the_run(tmp_path, capsys):
    assert run("generate", "x", *SHORT, "--metadata") == 0
    settings = json.loads((tmp_path / "clip.json").read_text())
    settings["weights"]["transformer"] = "other"
    settings["versions"]["mlx"] = "\x1b[2J"
    (tmp_path / "clip.json").write_text(json.dumps(settings))
    capsys.readouterr()
    assert run("generate", "--config-from-metadata", "clip.json") == 0
    shown = capsys.readouterr().err
    assert "the clip will differ: the weights of transformer differ" in shown
    assert "mlx was ?[2J" in shown and "\nNote: the clip will differ" in f"\n{shown}"


def test_info_shows_what_a_clip_was_made_of(capsys):
    assert run("generate", "A red\x1b[31m ball.", *SHORT) == 0
    assert run("info", "clip.mp4") == 0
    shown = capsys.readouterr().out
    assert "model             tiny" in shown and "seed              3" in shown
    assert "prompt\nA red?[31m ball." in shown


def test_latents_say_what_they_are_of_too(capsys):
    assert run("generate", "x", *SHORT, "--save-latents") == 0
    assert run("info", "clip.mp4") == 0
    of_clip = capsys.readouterr().out
    assert run("info", "clip.latents.safetensors") == 0
    assert capsys.readouterr().out == of_clip
    assert run("generate", "--config-from-metadata", "clip.latents.safetensors", "-o", "again.mp4") == 0
    assert np.array_equal(frames_of("clip.mp4"), frames_of("again.mp4"))


def test_info_may_be_cut_short(tmp_path):
    assert run("generate", "x", *SHORT) == 0
    command = [sys.executable, "-m", "mlx_happyhorse", "info", "clip.mp4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
