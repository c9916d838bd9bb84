"""The Python API: stages, seeds, public steps."""

import warnings

import mlx.core as mx
import numpy as np
import pytest

from mlx_happyhorse import HappyHorse, Line, Prompt, RequestError
from mlx_happyhorse.models.audio_vae import AudioVAE

SHORT = {"seconds": 0.36, "width": 64, "height": 32, "steps": 2}
pytestmark = pytest.mark.filterwarnings("ignore:tiny")


@pytest.fixture(scope="module")
def horse():
    return HappyHorse.load("tiny")


def test_stages_follow_each_other_and_end_in_the_clip(horse):
    states = list(horse.stream("a ball", seed=1, **SHORT))
    stages = list(dict.fromkeys(s.stage for s in states))
    assert stages == ["text", "denoise", "sound", "picture"]
    for stage in stages:
        steps = [(s.step, s.steps) for s in states if s.stage == stage]
        assert steps[0][0] == 0 and steps[-1][0] == steps[-1][1]
    assert states[2].latents is None
    assert states[3].latents.video.shape == (3, 2, 4, 48) and states[3].latents.audio.shape == (10, 64)
    clip = states[-1].clip
    assert clip.video.shape == (9, 32, 64, 3) and clip.video.dtype == np.uint8
    assert clip.audio.shape == (17640, 2) and clip.audio.dtype == np.float32
    assert (clip.fps, clip.sample_rate) == (25, 44_100)
    assert all(s.clip is None for s in states[:-1])


def test_the_seed_decides(horse):
    first, again, other = (horse.generate("a ball", seed=s, **SHORT) for s in (1, 1, 2))
    assert np.array_equal(first.video, again.video) and np.array_equal(first.audio, again.audio)
    assert not np.array_equal(first.video, other.video)


def test_a_first_frame_changes_the_clip(horse):
    picture = np.full((40, 90, 3), 200, np.uint8)
    with_picture, without = (horse.generate("x", seed=1, image=i, **SHORT) for i in (picture, None))
    assert not np.array_equal(with_picture.video, without.video)


def test_impossible_requests_are_refused_before_the_first_step(horse):
    nan = float("nan")
    for wrong in (
        {"seconds": nan},
        {"seed": 1.5},
        {"steps": True},
        {"upscale": "8k"},
        {"upscale": "540p", "width": 960, "height": 512},
        {"upscale": "540p", "upscale_size": (0, 0)},
        {"negative_prompt": 5},
        {"image": 5},
        {"image": "missing.png"},
    ):
        with pytest.raises(RequestError):
            horse.stream("x", **wrong)
    with pytest.raises(RequestError, match="there is no model"):
        HappyHorse.load("nonsense")


def test_public_steps_make_the_same_clip(horse):
    clip = horse.generate("a ball", seed=5, **SHORT)
    key = mx.random.key(5)

    def draw(shape):
        nonlocal key
        key, now = mx.random.split(key)
        return mx.random.normal(shape, key=now)

    text = horse.encode_text("a ball")
    audio, video = draw((10, 64)), draw((3, 2, 4, 48))
    *_, last = horse.denoise(text, video, audio, steps=2, draw=draw)
    frames = mx.concatenate(list(horse.decode_video(last.video)))
    assert np.array_equal(np.array(frames), clip.video)
    assert np.array_equal(np.array(horse.decode_audio(last.audio)), clip.audio)


def test_images_and_sound_become_latents_of_the_documented_shapes(horse):
    assert horse.encode_image(mx.zeros((32, 64, 3))).shape == (1, 2, 4, 48)
    samples = mx.random.normal((4096, 2), key=mx.random.key(0))
    noise = mx.ones((2, 64))
    mean, drawn = horse.encode_audio(samples), horse.encode_audio(samples, noise)
    assert mean.shape == (2, 64)
    assert (drawn >= mean).all() and (drawn > mean).any()


def test_features_are_cut_to_640_tokens_and_went_through_half_precision(horse):
    with pytest.warns(UserWarning, match="the model reads 640"):
        long = horse.encode_text("red " * 700)
    assert long.shape == (640, 64) and long.dtype == mx.float32
    assert mx.array_equal(long, long.astype(mx.float16).astype(mx.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(horse.encode_text("red ball")) < 10


def test_the_narrowest_draw_of_a_sound_is_not_quite_its_mean():
    mean = mx.zeros((1, 64))
    assert mx.allclose(AudioVAE.sample(mean, mean - 50, mx.ones_like(mean)), mean + 1e-4, atol=1e-7)


def test_numpy_numbers_are_numbers(horse):
    request = horse.request("x", seconds=np.float32(1), width=np.int64(64), seed=np.uint8(3))
    assert (request.seconds, request.width, request.seed) == (1.0, 64, 3)
    assert all(type(v) in (int, float, str, bool, type(None)) for v in vars(request).values())


def test_sizes_are_rounded_down_aloud(horse):
    with pytest.warns(UserWarning, match="width 100 becomes 96"):
        assert horse.request("x", width=100).width == 96


def test_guidance_without_anything_to_lead_away_from_is_refused(horse):
    video, audio, text = mx.zeros((3, 2, 4, 48)), mx.zeros((10, 64)), horse.encode_text("x")
    with pytest.raises(RequestError, match="needs negative_text"):
        list(horse.denoise(text, video, audio, guidance=3, draw=mx.zeros))


def test_a_given_recording_is_never_updated(horse):
    audio = mx.random.normal((10, 64), key=mx.random.key(0))
    video = mx.random.normal((3, 2, 4, 48), key=mx.random.key(1))
    draw = mx.zeros
    *_, last = horse.denoise(horse.encode_text("x"), video, audio, draw=draw, steps=3, keep_audio=True)
    assert mx.array_equal(last.audio, audio)


def test_the_embedded_model_is_small(horse):
    assert sum(p.stat().st_size for p in horse.folder.rglob("*")) <= 12_000_000


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: HappyHorse.load(None),
        lambda: HappyHorse.load("tiny", dtype="half"),
        lambda: HappyHorse.load("tiny").encode_texts("a ball"),
        lambda: Prompt("a ball", dialogue=None),
        lambda: Prompt("a ball", dialogue=Line("Man", "English", "hi")),
    ],
)
def test_slips_in_scripts_are_named(mistake):
    with pytest.raises(RequestError):
        mistake()
