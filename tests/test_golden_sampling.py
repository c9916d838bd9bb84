"""Noise levels, solvers, positions, the hand-over to super-resolution and whole denoising loops."""

import mlx.core as mx
import numpy as np
import pytest
from helpers.golden_cases import FOLDER, Case, distance, each, latents, strays_no_further, transformer

from mlx_happyhorse.diffusion import sampling, sequence, upscaling
from mlx_happyhorse.models.transformer import gelu7, local_windows, rotate, swiglu7
from mlx_happyhorse.outputs.resampling import to_44100

LOOP_TOLERANCE = 1e-3


@pytest.fixture
def parts():
    path = FOLDER / "parts.safetensors"
    if not path.exists():
        pytest.skip("the folder holds no parts.safetensors")
    return Case(path)


def test_activations(parts):
    x = parts["act.in"]
    assert distance(gelu7(x), parts["act.gelu7"]) <= 1e-6
    assert distance(swiglu7(x[:, 0::2], x[:, 1::2]), parts["act.swiglu7"]) <= 1e-6


def unipc_lengths(parts):
    return [int(name.split(".")[1]) for name in parts.tensors if name.endswith(".sigmas") and "unipc" in name]


def test_noise_levels(parts):
    for n in unipc_lengths(parts):
        assert np.allclose(sampling.sigmas(n), parts[f"unipc.{n}.sigmas"], rtol=1e-6)
        assert sampling.timesteps(n) == parts[f"unipc.{n}.timesteps"].tolist()


def test_unipc_trajectories(parts):
    for n in unipc_lengths(parts):
        if f"unipc.{n}.start" not in parts.tensors:
            continue
        solver, x = sampling.UniPC(sampling.sigmas(n)), parts[f"unipc.{n}.start"]
        for expected in parts[f"unipc.{n}.trajectory"]:
            x = solver.step(0.7 * x + parts[f"unipc.{n}.bias"], x)
            assert distance(x, expected) <= 1e-5


@pytest.mark.parametrize("style", ["v1", "v2"])
def test_positions_and_packing(parts, style):
    video = latents(parts[f"tokens.{style}.video_in"])
    frames, h, w, _ = video.shape
    grid = (frames, h // 2, w // 2)
    modality = parts[f"rope.{style}.modality"]
    audio, text = (int((modality == i).sum()) for i in (1, 2))
    coords = sequence.coordinates(grid, audio, text, style)
    assert np.allclose(coords, parts[f"rope.{style}.coords"])
    cos, sin = sequence.rotation(coords, 16)
    embedding = parts[f"rope.{style}.embedding_head_dim_128"]
    assert distance(mx.concatenate([sin, cos], axis=1), embedding) <= 1e-5
    packed = parts[f"tokens.{style}.packed"]
    assert mx.array_equal(sequence.pack(video), packed[: np.prod(grid)])


def test_rotation_is_of_the_first_dimensions_with_the_one_half_a_turn_on(parts):
    embedding = parts["rope.v2.embedding_head_dim_128"]
    sin, cos = mx.split(embedding, 2, axis=1)
    x = mx.random.normal((len(embedding), 2, 128), key=mx.random.key(0))
    turned = rotate(x, cos, sin)
    i = 5
    assert mx.array_equal(turned[..., 96:], x[..., 96:])
    assert mx.allclose(turned[:, 1, i], x[:, 1, i] * cos[:, i] - x[:, 1, i + 48] * sin[:, i], atol=1e-6)
    assert mx.allclose(turned[:, 1, i + 48], x[:, 1, i + 48] * cos[:, i] + x[:, 1, i] * sin[:, i], atol=1e-6)


def test_start_of_super_resolution(parts):
    low = latents(parts["sr.low_video"])
    _, h, w, _ = latents(parts["sr.start_video"]).shape
    assert distance(upscaling.resize(low, h, w), latents(parts["sr.upsampled"])) <= 1e-5
    noises = iter([latents(parts["sr.noise_video"]), latents(parts["sr.noise_audio"])])
    video, audio = upscaling.start(low, latents(parts["sr.audio"]), h, w, lambda _: next(noises))
    assert distance(video, latents(parts["sr.start_video"])) <= 1e-5
    assert distance(audio, latents(parts["sr.start_audio"])) <= 1e-5


def test_noise_table_of_super_resolution(parts):
    assert np.allclose(upscaling.signal_levels(), parts["sr.sigmas"], atol=1e-6)


def test_sound_resampling(parts):
    assert distance(to_44100(np.array(parts["resample.in"])), parts["resample.out"]) <= 1e-5


def test_local_windows(parts):
    """The recorded ranges count tokens, a range a frame; ours are one for all frames that share it."""
    _, _, frames, height, width = parts["tokens.v1.video_in"].shape
    per_frame = height // 2 * width // 2
    queries, keys = (parts[f"rope.v1.{name}_ranges"][:frames].tolist() for name in "qk")
    reach = max(stop // per_frame - 1 - frame for frame, (_, stop) in enumerate(keys))
    windows = local_windows(frames, reach)
    assert [frame for first, last, *_ in windows for frame in range(first, last)] == list(range(frames))
    for first, last, *window in windows:
        for frame in range(first, last):
            assert queries[frame] == [frame * per_frame, (frame + 1) * per_frame]
            assert keys[frame] == [bound * per_frame for bound in window]


def keeps_audio(case):
    """Super-resolution never touches it. A given one the reference keeps in its base loop alone, unless
    mended: then the case ends with the audio that it began with."""
    return case.setting("super_resolution") or (
        case.setting("audio_given") and mx.array_equal(case["in.audio"], case["fp32.final_audio"]).item()
    )


def run_loop(case, dtype):
    passes, upscaling = case.setting("guidance_passes"), case.setting("super_resolution")
    if upscaling:
        guidance = sampling.UpscaleGuidance(case.setting("sr_guidance"), case.setting("audio_guidance"))
    else:
        guidance = sampling.Guidance(case.setting("video_guidance"), case.setting("audio_guidance"))
    image = case.get("in.image")
    distilled = "in.noise.00" in case.tensors
    *_, last = sampling.denoise(
        transformer(case, dtype),
        latents(case["in.text"]),
        latents(case["in.video"]),
        latents(case["in.audio"]),
        steps=case.setting("steps"),
        shift=case.setting("shift"),
        negative_text=latents(case["in.negative_text"]) if passes == 2 else None,
        guidance=guidance if passes == 2 else None,
        image=None if image is None else latents(image),
        keep_audio=keeps_audio(case),
        draw=case.draw() if distilled else None,
    )
    return {"final_video": last.video, "final_audio": last.audio}


@each("transformer")
def test_denoising_in_fp32(case):
    for name, value in run_loop(case, "float32").items():
        assert distance(value, latents(case[f"fp32.{name}"])) <= LOOP_TOLERANCE


@each("transformer")
def test_denoising_in_bf16_strays_no_further_than_the_reference(case):
    assert strays_no_further(case, run_loop(case, "bfloat16"))
