"""The hand-over to super-resolution, beside what the golden cases hold of it."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_happyhorse import HappyHorse
from mlx_happyhorse.diffusion import sampling, upscaling
from mlx_happyhorse.models.blocks import no_block
from mlx_happyhorse.pipeline.order import Order
from mlx_happyhorse.pipeline.run import Run

pytestmark = pytest.mark.filterwarnings("ignore:tiny")


@pytest.fixture(scope="module")
def tiny():
    return HappyHorse.load("tiny")


def normal(*shape, seed=0):
    return mx.random.normal(shape, key=mx.random.key(seed))


@pytest.mark.parametrize("size", [(10, 14), (8, 12), (6, 4), (15, 31)])
@pytest.mark.parametrize("align_corners", [True, False])
def test_latents_are_resized_as_pytorch_does(size, align_corners):
    import torch

    low = normal(3, 4, 6, 48)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(np.array(low)).permute(3, 0, 1, 2)[None],
        size=(3, *size),
        mode="trilinear",
        align_corners=align_corners,
    )
    ours = upscaling.resize(low, *size, align_corners)
    assert np.abs(np.array(ours) - theirs[0].permute(1, 2, 3, 0).numpy()).max() < 1e-5


def test_guidance_is_weaker_on_the_first_13_frames(tiny):
    text, negative = normal(5, 64, seed=1), normal(4, 64, seed=2)
    video, audio = normal(16, 2, 2, 48, seed=3), normal(61, 64, seed=4)
    size = {"width": 64, "height": 64}

    def draw(shape):
        return normal(*shape, seed=5)

    (step,) = tiny.upscale(
        text, video, audio, to="540p", **size, steps=1, negative_text=negative, guidance=3.5, draw=draw
    )
    video, audio = upscaling.start(video, audio, 4, 4, draw)
    velocity = sampling.Velocity(tiny._load("upscaler_540p"))
    toward, away = (velocity(video, audio, x)[0] for x in (text, negative))
    scale = mx.array([2.0] * 13 + [3.5] * 3)[:, None, None, None]
    expected = video - 0.999 * 5 / (1 + 4 * 0.999) * (away + scale * (toward - away))
    assert mx.allclose(step.video, expected, atol=1e-5)


def test_its_noise_is_not_that_of_the_first_stage(tiny):
    plan = tiny.plan("x", seed=1)
    run = Run(tiny, Order(plan.request), {}, None, plan, no_block)
    assert not mx.allclose(run.draw((4, 4)), run.draw_upscaling((4, 4)))
