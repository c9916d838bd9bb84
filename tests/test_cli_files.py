"""The files of a run: names that are taken, latents, clips that were stopped."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers.commands import SHORT, frames_of, read_until, run, settings_in

from mlx_happyhorse import HappyHorse, HappyHorseError, Latents
from mlx_happyhorse.inputs import request
from mlx_happyhorse.pipeline.writer import ClipWriter
from mlx_happyhorse.runtime import memory

pytestmark = pytest.mark.usefixtures("in_empty_folder")


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


@pytest.fixture
def small_540p(monkeypatch):
    monkeypatch.setitem(request.UPSCALED, "540p", (96, 128))


def test_the_latents_of_both_stages_are_kept(tmp_path, small_540p):
    assert run("generate", "x", *SHORT, "--save-latents", "--upscale", "540p") == 0
    names = ["clip.before-upscaling.latents.safetensors", "clip.latents.safetensors", "clip.mp4"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert run("decode", "clip.mp4") == 0
    assert run("upscale", "clip.mp4") == 0
    assert run("decode", "clip.before-upscaling.latents.safetensors", "-o", "small.mp4") == 0
    assert run("upscale", "clip.latents.safetensors") == 2
    for name in ("clip_1.mp4", "clip_540p.mp4"):
        assert np.array_equal(frames_of(name), frames_of("clip.mp4"))
    assert run("generate", "x", *SHORT, "-o", "plain.mp4") == 0
    assert np.array_equal(frames_of("small.mp4"), frames_of("plain.mp4"))
    small, plain = settings_in("small.mp4"), settings_in("plain.mp4")
    assert {k for k in plain if small[k] != plain[k]} == {"weights"}


@pytest.mark.parametrize(
    "there", ["a.latents.safetensors", "a.before-upscaling.latents.safetensors", "a.json"]
)
def test_what_a_lost_clip_left_is_not_mixed_with_another(tmp_path, there):
    (tmp_path / there).write_text("mine")
    assert run("generate", "x", *SHORT, "--save-latents", "--metadata", "-o", "a.mp4") == 0
    made = {"a_1.mp4", "a_1.json", "a_1.latents.safetensors"}
    assert {p.name for p in tmp_path.iterdir()} == made | {there}
    assert (tmp_path / there).read_text() == "mine"


def test_a_run_stopped_before_it_is_upscaled_says_so(monkeypatch, capsys, small_540p):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HappyHorse, "upscale", stop)
        assert run("generate", "x", *SHORT, "--upscale", "540p", "--keep-stopped") == 130
    assert "the clip was saved as it was before upscaling" in capsys.readouterr().err
    assert settings_in("clip.mp4")["stopped"] == "before upscaling"


def test_an_upscaled_clip_outlives_a_decoder_that_fails(tmp_path, monkeypatch, capsys, small_540p):
    def fail(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(HappyHorse, "decode_video", fail)
        assert run("generate", "x", *SHORT, "--save-latents", "--upscale", "540p") == 1
    assert "happyhorse decode clip.latents.safetensors" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(HappyHorse, "upscale", fail)
        assert run("generate", "x", *SHORT, "--save-latents", "--upscale", "540p", "-o", "b.mp4") == 1
    assert "happyhorse upscale --to 540p b.before-upscaling.latents.safetensors" in capsys.readouterr().err
    assert run("decode", "clip.latents.safetensors") == 0
    assert run("upscale", "b.before-upscaling.latents.safetensors", "-o", "c.mp4") == 0
    assert np.array_equal(frames_of("clip.mp4"), frames_of("c.mp4"))


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

    def stop_once(self, latents, *rest):
        for stop in stops:
            raise stop
        return decode_audio(self, latents, *rest)

    monkeypatch.setattr(HappyHorse, "decode_audio", stop_once)
    assert run("generate", "x", *SHORT, "--seed", "2", "--keep-stopped") == 130
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    assert run("generate", "x", *SHORT[:-2], "--seed", "1", "2", "--keep-stopped") == 0
    assert len(list(tmp_path.iterdir())) == 3


def test_a_run_stopped_between_its_steps_is_over_before_it_is_decoded(tmp_path, monkeypatch):
    take, finish, running = ClipWriter.add, HappyHorse.finish, []

    def stop(self, state):
        if state.stage == "denoise" and state.step == 1:
            raise KeyboardInterrupt
        take(self, state)

    def watched(*args, **options):
        running.extend(memory._limits.wired)
        return finish(*args, **options)

    monkeypatch.setattr(ClipWriter, "add", stop)
    monkeypatch.setattr(HappyHorse, "finish", watched)
    assert run("generate", "x", *SHORT[:-2], "--steps", "2", "--keep-stopped") == 130
    assert running == [] and settings_in("clip.mp4")["stopped"] == "after denoise step 1 of 2"


def test_a_stopped_run_decodes_what_it_has_when_asked_to(tmp_path):
    options = ["--steps", "100", "--seconds", "1", "--keep-stopped", "--save-latents"]
    command = [sys.executable, "-m", "mlx_happyhorse", "generate", "x", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        shown = read_until(process, rb" ([2-9]|\d\d)/100")  # at 1 its latents may not be seen yet
        process.send_signal(signal.SIGINT)
        shown += process.stderr.read()
    assert process.returncode == 130
    stopped = settings_in("clip.mp4")["stopped"]
    assert stopped.startswith("after denoise step") and stopped.encode() in shown
    assert len(frames_of("clip.mp4")) == 25
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.latents.safetensors", "clip.mp4"]
