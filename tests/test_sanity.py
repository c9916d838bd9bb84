"""What makes no sense is not saved; what the machine says is put into words; limits are put back."""

import os

import mlx.core as mx
import numpy as np
import pytest

from mlx_happyhorse import HappyHorse
from mlx_happyhorse.cli import main
from mlx_happyhorse.memory import CACHE_BYTES, WINOGRAD, OutOfResources, explained, limits
from mlx_happyhorse.models.audio_vae import AudioVAE
from mlx_happyhorse.models.transformer import Transformer
from mlx_happyhorse.models.turbo_decoder import TurboDecoder
from mlx_happyhorse.sanity import BrokenRun

SHORT = {"seconds": 0.36, "width": 64, "height": 32, "steps": 2, "seed": 1}
pytestmark = pytest.mark.filterwarnings("ignore:tiny")


def spoil(monkeypatch, owner, name, change):
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: change(original(*args)))


def nan(result):
    return tuple(x * float("nan") for x in result)


def test_latents_that_are_no_numbers_end_the_run_at_once(monkeypatch):
    spoil(monkeypatch, Transformer, "__call__", nan)
    with pytest.raises(BrokenRun, match="denoise step 1: the latents are no numbers any more"):
        HappyHorse.load("tiny").generate("x", **SHORT)
    with pytest.raises(BrokenRun, match="float16 may be too narrow"):
        HappyHorse.load("tiny", dtype=mx.float16).generate("x", **SHORT)


@pytest.mark.parametrize(
    ("owner", "name", "change", "message"),
    [
        (AudioVAE, "decode", lambda x: 0 * x, "perfectly silent"),
        (AudioVAE, "decode", lambda x: x * float("inf"), "the sound holds what is no number"),
        (
            TurboDecoder,
            "__call__",
            lambda w: (0 * x for x in w),
            "9 of 9 frames are of one colour throughout",
        ),
        (TurboDecoder, "__call__", lambda w: (x * float("nan") for x in w), "the picture holds what is no"),
    ],
)
def test_sound_and_picture_are_looked_at_before_they_are_saved(
    in_empty_folder, tmp_path, monkeypatch, capsys, owner, name, change, message
):
    spoil(monkeypatch, owner, name, change)
    words = ["generate", "x", "--seconds", "0.36", "--width", "64", "--height", "32", "--steps", "1"]
    assert main(words) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("said", "explained_as"),
    [
        ("Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)", "the memory ran out"),
        (
            "Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)",
            "macOS",
        ),
        ("Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)", "macOS ended it"),
        (
            "Caused GPU Address Fault Error (0000000b:kIOGPUCommandBufferCallbackErrorPageFault)",
            "the GPU failed",
        ),
    ],
)
def test_a_failed_command_buffer_is_explained(in_empty_folder, monkeypatch, capsys, said, explained_as):
    def fail(*_):
        raise RuntimeError(f"[METAL] Command buffer execution failed: {said}.")

    monkeypatch.setattr(Transformer, "__call__", fail)
    assert main(["generate", "x", "--seconds", "0.36", "--width", "64", "--height", "32"]) == 1
    err = capsys.readouterr().err
    assert f"Error: transformer: {explained_as}" in err and "Traceback" not in err


def test_other_errors_of_mlx_are_explained_or_passed_on():
    with pytest.raises(OutOfResources, match="larger than this machine's GPU takes"), explained("upscaler"):
        raise RuntimeError(
            "[metal::malloc] Attempting to allocate 9 bytes which is greater than the "
            "maximum allowed buffer size of 8 bytes."
        )
    with pytest.raises(RuntimeError, match="no idea"), explained("upscaler"):
        raise RuntimeError("no idea")


def test_limits_are_put_back(monkeypatch):
    monkeypatch.delenv(WINOGRAD, raising=False)
    before = mx.set_cache_limit(12345)
    try:
        with pytest.raises(ZeroDivisionError), limits(wired=1000):
            assert mx.set_cache_limit(CACHE_BYTES) == CACHE_BYTES
            assert int(os.environ[WINOGRAD]) > 0
            raise ZeroDivisionError
        assert mx.set_cache_limit(before) == 12345
        assert WINOGRAD not in os.environ
    finally:
        mx.set_cache_limit(before)


def test_quiet_sound_is_sound():
    from mlx_happyhorse.sanity import check_sound

    check_sound(np.array([[1e-7, 0], [0, 0]], np.float32))
