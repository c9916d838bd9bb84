"""Networks whose weights are read anew for every pass: the same numbers, in less memory."""

import subprocess
import sys
import threading

import mlx.core as mx
import pytest
from helpers import networks

from mlx_happyhorse import HappyHorse
from mlx_happyhorse.convert import Quantization, convert
from mlx_happyhorse.diffusion.sampling import Velocity
from mlx_happyhorse.models.transformer import Expert
from mlx_happyhorse.storage import weights


@pytest.fixture(scope="module", params=[None, Quantization(4, 32), Quantization(mode="mxfp8")], ids=str)
def folder(request, tmp_path_factory):
    work = tmp_path_factory.mktemp("streamed")
    source = networks.save(networks.published(), work / "source")
    convert([source], work / "model", variant="base", quantization=request.param)
    return work / "model/transformer"


@pytest.mark.parametrize("dtype", [None, mx.float16])
def test_streamed_is_resident(folder, dtype):
    resident = Velocity(weights.load(folder, dtype))(*networks.inputs())
    streamed = Velocity(weights.load(folder, dtype, streamed=True))
    for _ in range(3):
        for ours, expected in zip(streamed(*networks.inputs()), resident, strict=True):
            assert mx.array_equal(ours, expected)


def test_a_pass_that_was_broken_off_does_no_harm(folder, monkeypatch):
    expected = Velocity(weights.load(folder))(*networks.inputs())
    model = weights.load(folder, streamed=True)
    with monkeypatch.context() as patch:
        patch.setattr(Expert, "merge", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Velocity(model)(*networks.inputs())
    for ours, same in zip(Velocity(model)(*networks.inputs()), expected, strict=True):
        assert mx.array_equal(ours, same)


def test_no_more_than_two_experts_are_held(folder):
    model = weights.load(folder, streamed=True)
    streamed = model.offload.__self__
    held = []
    offload = model.offload

    def watch(module, children):
        offload(module, children)
        held.append(sum(streamed.sizes[i] for i in streamed.resident))

    model.offload = watch
    Velocity(model)(*networks.inputs())
    experts = [expert for layer in model.layers for expert in layer.experts]
    largest = max(sum(x.nbytes for x in weights.parameters(expert).values()) for expert in experts)
    assert len(held) == 2 * (3 + 1 + 3)
    assert 0.6 * streamed.budget < max(held) <= streamed.budget == 2 * largest


def test_a_clip_is_the_same(tmp_path):
    asked = {"seconds": 0.36, "width": 64, "height": 32, "steps": 2, "seed": 1}
    clips = [
        HappyHorse.load("tiny", low_ram=low_ram).generate("a ball", **asked) for low_ram in (False, True)
    ]
    assert (clips[0].video == clips[1].video).all() and (clips[0].audio == clips[1].audio).all()


def test_every_thread_reads_on_a_stream_of_its_own():
    asked = {"seconds": 0.2, "width": 32, "height": 32, "steps": 1, "seed": 1}
    horse, failed = HappyHorse.load("tiny", low_ram=True), []

    def run(number):
        try:
            horse.generate(f"a ball, {number}", **asked)
        except Exception as error:
            failed.append(error)

    for number in range(12):
        thread = threading.Thread(target=run, args=(number,))
        thread.start()
        thread.join()
    assert not failed


def test_a_process_ends_well_after_its_threads():
    """Without care MLX aborts every second one."""
    code = """
import threading
import mlx.core as mx
from mlx_happyhorse import HappyHorse

thread = threading.Thread(target=lambda: HappyHorse.load("tiny").encode_image(mx.zeros((32, 32, 3))))
thread.start()
thread.join()
"""
    for _ in range(4):
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
