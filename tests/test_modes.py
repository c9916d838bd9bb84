"""Every way in and up: first frame, own voice, super-resolution, latents that are kept."""

import json
import warnings
from contextlib import nullcontext
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from helpers.models import golden_model
from helpers.sounds import best_lag, heard_in, speech

from mlx_happyhorse import HappyHorse, Latents, RequestError
from mlx_happyhorse.diffusion import sampling
from mlx_happyhorse.inputs import picture, recording
from mlx_happyhorse.models import audio_vae
from mlx_happyhorse.outputs import metadata

pytestmark = pytest.mark.filterwarnings("ignore:tiny")
FRAME = 44_100 // 25
SIZE = {"width": 96, "height": 64, "steps": 2, "seed": 1}
LARGER = {"upscale": "540p", "upscale_size": (128, 96), "upscale_steps": 2}


@pytest.fixture(scope="module")
def tiny():
    return HappyHorse.load("tiny")


@pytest.fixture
def photo():
    y, x = np.mgrid[0:150, 0:200]
    return np.stack([x, y, 255 - x], -1).astype(np.uint8)


@pytest.mark.parametrize("variant", ["base", "distill"])
@pytest.mark.parametrize("upscaling", [{}, LARGER], ids=["", "upscaled"])
def test_the_file_carries_the_persons_own_recording(variant, upscaling, photo, tmp_path):
    said = speech(1.3, 44_100)
    horse = golden_model(variant)
    states = list(horse.stream("A man.", audio=(said, 44_100), image=photo, **SIZE, **upscaling))
    clip = states[-1].clip
    assert len(clip.video) == 33 and len(clip.audio) == 33 * FRAME
    heard = heard_in(clip.save(tmp_path / "a.mp4"))
    lag, likeness = best_lag(heard[:, 0], said)
    assert abs(lag) <= 2 and likeness >= 0.99
    assert np.std(heard[: len(said)]) == pytest.approx(np.std(said), rel=0.02)
    latents = [s.latents.audio for s in states if s.latents is not None]
    assert all(mx.array_equal(audio, latents[0]) for audio in latents)


@pytest.mark.parametrize("variant", ["base", "distill"])
@pytest.mark.parametrize("upscaling", [{}, LARGER], ids=["", "upscaled"])
def test_the_first_frame_is_the_picture(variant, upscaling, photo):
    """As the causal Wan decoder makes frame 0 of latent frame 0 alone; Turbo looks at later ones too."""
    horse = golden_model(variant, turbo=False)
    clip = horse.generate("A man.", image=photo, seconds=0.5, **SIZE, **upscaling)
    height, width = clip.video.shape[1:3]
    latent = horse.encode_image(mx.array(picture.fit_picture(picture.open_picture(photo), width, height)))
    (alone,) = horse.decode_video(latent)
    assert np.array_equal(np.array(alone[0]), clip.video[0])
    assert np.abs(np.array(alone[0]).astype(int) - clip.video[4]).mean() > 10


def test_a_recording_changes_the_picture_and_nothing_more_changes_it(tiny):
    one, other = ((speech(0.4, 44_100, seed), 44_100) for seed in (1, 2))
    first, again = (tiny.generate("x", audio=one, **SIZE) for _ in range(2))
    assert np.array_equal(first.video, again.video)
    assert not np.array_equal(first.video, tiny.generate("x", audio=other, **SIZE).video)


def test_the_model_hears_the_recording(tiny):
    """Drawn from the encoder's mean and scale by the first noise."""
    said = speech(0.68, 51_200)
    noise = mx.random.normal((17, 64), key=mx.random.key(0))
    draws = iter([noise])

    def draw(shape):
        return next(draws, None) if shape == (17, 64) else mx.zeros(shape)

    *_, last = tiny.stream("x", audio=(said, 51_200), draw=draw, **SIZE)
    assert np.abs(heard_by_model(said, 17)[: len(said), 0] - said).max() < 1e-4
    mean, scale = tiny._load("audio_vae").encode(mx.array(heard_by_model(said, 17)))
    drawn = mean + (mx.logaddexp(scale, mx.array(0)) + 1e-4) * noise
    assert mx.allclose(last.latents.audio, drawn, atol=1e-5)


def heard_by_model(said, latents):
    return recording.open_recording((said, 51_200)).samples(latents)


def test_seconds_cut_a_recording_or_silence_follows_it(tiny):
    said = speech(0.6, 44_100)
    short = tiny.generate("x", audio=(said, 44_100), seconds=0.2, **SIZE)
    assert len(short.audio) == 5 * FRAME
    assert np.corrcoef(short.audio[:, 0], said[: 5 * FRAME])[0, 1] > 0.999
    long = tiny.generate("x", audio=(said, 44_100), seconds=1, **SIZE)
    assert len(long.audio) == 25 * FRAME and not long.audio[len(said) + 1 :].any()


def test_long_recordings_are_encoded_in_windows_cross_faded(tiny, monkeypatch):
    """Against the plain formula, on windows of 6 latents."""
    vae = tiny._load("audio_vae")
    samples = mx.array(np.stack([speech(1, 51_200)] * 2, 1))
    whole, _ = vae.encode(samples)
    vae.config = replace(vae.config, window=6)
    mean, scale = vae.encode(samples)
    assert mean.shape == scale.shape == whole.shape == (25, 64)
    total, weights = np.zeros((40, 64)), np.zeros((40, 1))
    for start in range(0, 22, 3):
        piece = np.zeros((6 * 2048, 2), np.float32)
        part = np.array(samples)[start * 2048 : (start + 6) * 2048]
        piece[: len(part)] = part
        vae.config = replace(vae.config, window=725)
        features = np.array(vae.encode(mx.array(piece))[0])
        weight = np.array([0, 1, 2, 3, 2, 1])[:, None] / 3
        weight[:3] = 1 if start == 0 else weight[:3]
        weight[3:] = 1 - np.arange(3)[:, None] / 3 if start < 21 else 1
        total[start : start + 6] += weight * features
        weights[start : start + 6] += weight
    assert np.allclose(weights[:25], 1)
    assert np.allclose(np.array(mean), total[:25], atol=1e-5)


def test_the_windows_of_29_seconds_hold_725_latents():
    assert audio_vae.AudioVAEConfig().window == 29 * 25


def test_upscaling_later_is_upscaling_at_once(tiny, photo, tmp_path):
    said = speech(0.5, 44_100)
    inputs = {"image": photo, "audio": (said, 44_100)}
    at_once = tiny.generate("A ball.", **inputs, **SIZE, **LARGER)
    states = list(tiny.stream("A ball.", **inputs, **SIZE))
    states[-1].latents.save(tmp_path / "a.latents.safetensors")
    kept = Latents.load(tmp_path / "a.latents.safetensors")
    assert json.dumps(kept.settings) == json.dumps(states[-1].clip.settings)
    *_, decoded = tiny.finish(kept)
    assert np.array_equal(decoded.clip.video, states[-1].clip.video)
    *_, larger = tiny.finish(kept, **LARGER)
    assert larger.clip.video.shape[1:3] == (96, 128)
    assert np.array_equal(larger.clip.video, at_once.video)
    assert np.array_equal(larger.clip.audio, at_once.audio)
    assert larger.clip.settings == at_once.settings
    with pytest.raises(RequestError, match="upscaled to 540p already"):
        tiny.finish(larger.latents, **LARGER)


@pytest.mark.parametrize("guidance", [1, 3.5])
def test_upscaling_later_away_from_something_else_can_be_repeated(guidance):
    """What the first stage was guided away from is not forgotten."""
    horse = golden_model("base")
    small = SIZE | {"seconds": 0.3}
    *_, last = horse.stream("A ball.", negative_prompt="blue", **small)
    more = LARGER | {"upscale_guidance": guidance, "upscale_negative_prompt": "purple"}
    with nullcontext() if guidance > 1 else pytest.warns(UserWarning, match="has no effect"):
        *_, larger = horse.finish(last.latents, **more)
    assert larger.clip.settings["negative_prompt"] == "blue"
    with warnings.catch_warnings(action="ignore"):
        again = horse.generate(**metadata.arguments(larger.clip.settings))
    assert np.array_equal(again.video, larger.clip.video)
    assert again.settings == larger.clip.settings


def test_super_resolution_may_avoid_something_else(tiny):
    base = {"seconds": 0.3, **SIZE, **LARGER, "upscale_guidance": 3.5}
    other = tiny.generate("x", **base, upscale_negative_prompt="purple")
    assert not np.array_equal(tiny.generate("x", **base).video, other.video)
    assert np.array_equal(tiny.generate("x", **base, negative_prompt="purple").video, other.video)
    assert other.settings["negative_prompt"] is None


def test_weak_guidance_is_not_stronger_late(tiny):
    """The reference has 2 there, whatever it had before."""
    horse = golden_model("base")
    text, negative, *noise = (
        mx.random.normal(shape, key=mx.random.key(i))
        for i, shape in enumerate([(5, 32), (4, 32), (2, 4, 4, 48), (5, 64)])
    )
    *_, last = horse.denoise(text, *noise, steps=8, negative_text=negative, guidance=1.5)
    *_, flat = sampling.denoise(
        horse._load("transformer"),
        text,
        *noise,
        steps=8,
        negative_text=negative,
        guidance=sampling.Guidance(1.5, 1.5, late_video=1.5),
    )
    assert mx.array_equal(last.video, flat.video)


def test_a_base_clip_may_be_upscaled_by_a_distilled_models_upscaler():
    small = SIZE | {"seconds": 0.3}
    *_, last = golden_model("base").stream("x", **small)
    *_, larger = golden_model("distill").finish(last.latents, **LARGER)
    assert larger.clip.settings["guidance"] == 5


def test_finishing_takes_the_settings_of_upscaling_alone(tiny):
    *_, last = tiny.stream("x", seconds=0.2, **SIZE)
    with pytest.raises(TypeError, match="finish takes no seed"):
        tiny.finish(last.latents, seed=5, **LARGER)
    with pytest.raises(RequestError, match="upscale_guidance has no effect without upscale"):
        tiny.finish(last.latents, upscale_guidance=3)


def test_upscaling_that_was_stopped_before_it_began_is_made_up_for(tiny):
    stream = tiny.stream("A ball.", seconds=0.3, **SIZE, **LARGER)
    state = next(s for s in stream if s.stage == "upscale")
    stream.close()
    *_, larger = tiny.finish(state.latents, **LARGER)
    at_once = tiny.generate("A ball.", seconds=0.3, **SIZE, **LARGER)
    assert np.array_equal(larger.clip.video, at_once.video)
    assert larger.clip.settings == at_once.settings


def test_the_sound_of_an_upscaled_clip_is_the_base_stages(tiny):
    small = tiny.generate("x", seconds=0.3, **SIZE)
    large = tiny.generate("x", seconds=0.3, **SIZE, **LARGER)
    assert np.array_equal(small.audio, large.audio)


@pytest.mark.parametrize(
    "choice", [{"upscale_guidance": 3.5}, {"align_corners": False}, {"upscale": "1080p"}]
)
def test_choices_of_super_resolution_change_it(tiny, choice):
    base = {"seconds": 0.3, **SIZE, **LARGER}
    plain, other = tiny.generate("x", **base), tiny.generate("x", **(base | choice))
    assert not np.array_equal(plain.video, other.video)


@pytest.mark.parametrize(
    ("base", "to", "size"),
    [
        ((448, 256), "540p", (896, 512)),
        ((448, 256), "1080p", (1920, 1088)),
        ((256, 448), "1080p", (1088, 1920)),
        ((352, 352), "540p", (512, 512)),
        ((544, 224), "1080p", (1920, 800)),
    ],
)
def test_upscaled_sizes_keep_the_shape(tiny, base, to, size):
    assert tiny.request("x", width=base[0], height=base[1], upscale=to).final_size == size


def test_a_clip_stopped_early_can_be_decoded(tiny):
    stream = tiny.stream("x", seconds=0.3, upscale=None, **(SIZE | {"steps": 8}))
    state = next(s for s in stream if s.stage == "denoise" and s.step == 3)
    stream.close()
    *_, last = tiny.finish(state.latents)
    assert last.clip.settings["stopped"] == "after denoise step 3 of 8"
    whole = tiny.generate("x", seconds=0.3, **(SIZE | {"steps": 8}))
    assert last.clip.video.shape == whole.video.shape
    assert not np.array_equal(last.clip.video, whole.video)


def test_an_upscaler_of_another_model_is_refused(tmp_path):
    import shutil

    shutil.copytree(HappyHorse.load("tiny").folder, tmp_path / "mixed")
    shutil.rmtree(tmp_path / "mixed/upscaler_540p")
    shutil.copytree(golden_model("base").folder / "upscaler_540p", tmp_path / "mixed/upscaler_540p")
    mixed = HappyHorse.load(tmp_path / "mixed")
    with pytest.raises(RequestError, match="upscaler_540p does not fit this model"):
        mixed.stream("x", seconds=0.3, **SIZE, **LARGER)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", "cut", "foreign", "shape", "nan", "picture", "unseeded"]
)
def test_foreign_or_damaged_latents_are_refused(tiny, tmp_path, content):
    path = tmp_path / "a.latents.safetensors"
    *_, last = tiny.stream("x", seconds=0.2, **SIZE)
    if content == "foreign":
        mx.save_safetensors(str(path), {"video": mx.zeros((1, 2, 2, 48)), "audio": mx.zeros((2, 64))})
    elif content == "shape":
        replace(last.latents, video=mx.zeros((2, 2))).save(path)
    elif content == "nan":
        replace(last.latents, video=last.latents.video * mx.nan).save(path)
    elif content == "picture":
        replace(last.latents, picture=np.zeros((8, 8, 4), np.uint8)).save(path)
    elif content == "unseeded":
        replace(last.latents, settings=last.latents.settings | {"seed": 0.5}).save(path)
    else:
        last.latents.save(path)
        path.write_bytes(path.read_bytes()[:-100] if content == "cut" else content)
    with pytest.raises(RequestError, match=r"a\.latents\.safetensors"):
        Latents.load(path)


def test_latents_of_another_size_or_model_are_refused(tiny):
    *_, last = tiny.stream("x", seconds=0.2, **SIZE)
    with pytest.raises(RequestError, match="not tiny's"):
        tiny.finish(replace(last.latents, video=mx.zeros((1, 2, 2, 16))))
    with pytest.raises(RequestError, match="do not have the size"):
        tiny.finish(replace(last.latents, video=mx.zeros((1, 2, 2, 48))), **LARGER)


def test_a_negative_prompt_without_guidance_is_said_to_do_nothing(tiny):
    with pytest.warns(UserWarning, match="has no effect: tiny is distilled"):
        tiny.request("x", negative_prompt="noise")
    with pytest.warns(UserWarning, match="runs at guidance 1"):
        golden_model("base").request("x", negative_prompt="noise", guidance=1)
