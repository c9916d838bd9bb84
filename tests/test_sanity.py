"""What makes no sense is not saved; what the machine says is put into words; limits are put back."""

import os

import mlx.core as mx
import numpy as np
import pytest

from mlx_happyhorse import HappyHorse
from mlx_happyhorse.cli import main
from mlx_happyhorse.convert import tiny
from mlx_happyhorse.diffusion.checks import check_audio, check_latents
from mlx_happyhorse.errors import BrokenRun, OutOfResources
from mlx_happyhorse.models.audio_vae import AudioVAE
from mlx_happyhorse.models.transformer import Transformer
from mlx_happyhorse.models.turbo_decoder import TurboDecoder
from mlx_happyhorse.runtime import memory
from mlx_happyhorse.runtime.memory import CACHE_BYTES, WINOGRAD, explain_errors, limits

SHORT = {"seconds": 0.36, "width": 64, "height": 32, "steps": 2, "seed": 1}
pytestmark = pytest.mark.filterwarnings("ignore:tiny")


def spoil(monkeypatch, owner, name, change):
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: change(original(*args)))


def nan(result):
    return tuple(x * float("nan") for x in result)


def test_latents_that_are_no_numbers_end_the_run_at_once(monkeypatch):
    spoil(monkeypatch, Transformer, "__call__", nan)
    with pytest.raises(BrokenRun, match="denoise step 1: the latents contain NaN or infinity"):
        HappyHorse.load("tiny").generate("x", **SHORT)
    with pytest.raises(BrokenRun, match="float16 may be too narrow"):
        HappyHorse.load("tiny", dtype=mx.float16).generate("x", **SHORT)


def test_a_transformer_that_makes_zeros_ends_the_run(monkeypatch):
    spoil(monkeypatch, Transformer, "__call__", lambda made: tuple(0 * x for x in made))
    with pytest.raises(BrokenRun, match="the transformer's output is constant"):
        HappyHorse.load("tiny").generate("x", **SHORT)


@pytest.mark.parametrize(
    ("owner", "name", "change", "message"),
    [
        (AudioVAE, "decode", lambda x: 0 * x, "perfectly silent"),
        (AudioVAE, "decode", lambda x: x * float("inf"), "the audio contains NaN or infinity"),
        (
            TurboDecoder,
            "__call__",
            lambda w: (0 * x for x in w),
            "9 of 9 frames are of a single colour",
        ),
        (TurboDecoder, "__call__", lambda w: (x * float("nan") for x in w), "the frames contain NaN"),
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
        ("Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)", "out of memory"),
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
    too_large = "larger than this machine's GPU takes"
    with pytest.raises(OutOfResources, match=too_large), explain_errors("upscaler"):
        raise RuntimeError(
            "[metal::malloc] Attempting to allocate 9 bytes which is greater than the "
            "maximum allowed buffer size of 8 bytes."
        )
    with pytest.raises(RuntimeError, match="no idea"), explain_errors("upscaler"):
        raise RuntimeError("no idea")


class Limits:
    """Stands in for MLX's, which cannot be asked for."""

    def __init__(self, monkeypatch):
        self.cache, self.wired = 12345, 678
        monkeypatch.delenv(WINOGRAD, raising=False)
        monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 10**6})
        for name in ("cache", "wired"):
            monkeypatch.setattr(mx, f"set_{name}_limit", lambda value, name=name: self.put(name, value))

    def put(self, name, value):
        before = getattr(self, name)
        setattr(self, name, value)
        return before

    def all(self):
        return self.cache, self.wired, WINOGRAD in os.environ


def test_limits_are_put_back_after_an_error(monkeypatch):
    found = Limits(monkeypatch)
    with pytest.raises(ZeroDivisionError), limits(wired=1000):
        assert found.all() == (CACHE_BYTES, 1100, True)
        raise ZeroDivisionError
    assert found.all() == (12345, 678, False)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_limits_of_several_runs_are_put_back_with_the_last(monkeypatch, order):
    found = Limits(monkeypatch)
    runs = limits(wired=1000), limits()
    for run in runs:
        run.__enter__()
    assert found.all() == (CACHE_BYTES, 1100, True)
    runs[order[0]].__exit__(None, None, None)
    assert found.all() == (CACHE_BYTES, 0 if order[0] == 0 else 1100, True)
    runs[order[1]].__exit__(None, None, None)
    assert found.all() == (12345, 678, False)


def test_no_more_is_wired_than_is_recommended(monkeypatch):
    found = Limits(monkeypatch)
    with limits(wired=10**9):
        assert found.wired == 900_000


def test_weights_are_let_go_of_before_the_limits_are(monkeypatch):
    held = []

    class Watched(type(memory._limits)):
        def enter(self, wired, cache):
            super().enter(wired, cache)
            held.append(mx.get_active_memory())

        def leave(self, wired, cache):
            held[-1] = mx.get_active_memory() - held[-1]
            super().leave(wired, cache)

    monkeypatch.setattr(memory, "_limits", Watched())
    for low_ram in (False, True):
        horse = HappyHorse.load("tiny", low_ram=low_ram)
        for state in horse.stream(f"a ball, {low_ram}", **SHORT):
            del state
    transformers = held[1], held[5]
    assert len(held) == 8 and max(transformers) < 100_000


def test_one_empty_frame_is_enough():
    latents = mx.random.normal((5, 2, 4, 48))
    check_latents("denoise", latents, mx.random.normal((9, 64)))
    latents[1:] = 0  # as with a first frame that is given
    with pytest.raises(BrokenRun, match="denoise: the latents are constant"):
        check_latents("denoise", latents)


def test_overflow_is_suspected_where_a_model_is_stored_in_half_precision(tmp_path, monkeypatch):
    networks = {name: dict(config) for name, config in tiny.NETWORKS.items()}
    networks["transformer"] |= {"dtype": "float16"}
    tiny.write(tmp_path / "half", networks)
    spoil(monkeypatch, Transformer, "__call__", nan)
    with pytest.raises(BrokenRun, match="float16 may be too narrow"):
        HappyHorse.load(tmp_path / "half").generate("x", **SHORT)
    with pytest.raises(BrokenRun, match="the weights are damaged"):
        HappyHorse.load(tmp_path / "half", dtype=mx.float32).generate("x", **SHORT)


def test_quiet_sound_is_sound():
    check_audio(np.array([[1e-7, 0], [0, 0]], np.float32))
