"""Every network against the reference's numbers."""

import mlx.core as mx
from helpers.golden_cases import (
    KINDS,
    Case,
    converted,
    distance,
    each,
    kinds,
    latents,
    network,
    strays_no_further,
    transformer,
    weights_in,
)

from mlx_happyhorse.diffusion.sampling import Velocity
from mlx_happyhorse.storage import weights

TOLERANCE = 1e-4


def test_the_folder_holds_cases_and_none_without_a_test():
    assert kinds() and kinds() <= KINDS


def velocity(case: Case, dtype: str) -> tuple[mx.array, mx.array]:
    inputs = (latents(case[f"in.{name}"]) for name in ("video", "audio", "text"))
    return Velocity(transformer(case, dtype))(*inputs)


@each("transformer")
def test_transformer_in_fp32(case):
    video, audio = velocity(case, "float32")
    assert distance(video, latents(case["fp32.velocity_video"])) <= TOLERANCE
    assert distance(audio, latents(case["fp32.velocity_audio"])) <= TOLERANCE


@each("transformer")
def test_transformer_in_bf16_strays_no_further_than_the_reference(case):
    video, audio = velocity(case, "bfloat16")
    assert strays_no_further(case, {"velocity_video": video, "velocity_audio": audio})


@each("text_encoder")
def test_text_encoder(case):
    encoder = network(case, "text_encoder")
    for ids, hidden in zip(case.numbered("ids.{}"), case.numbered("hidden.{}"), strict=True):
        assert distance(encoder(case[ids].reshape(-1)), case[hidden][0]) <= TOLERANCE


@each("video_vae")
def test_video_encoder(case):
    encoder = network(case, "video_encoder")
    for name in case.numbered("encode.{}.in"):
        out = encoder(latents(case[name]))
        assert distance(out, latents(case[name.replace("in", "out")])) <= TOLERANCE


@each("video_vae")
def test_video_decoder(case):
    decoder = network(case, "video_decoder")
    for name in case.numbered("decode.{}.in"):
        out = mx.concatenate(list(decoder(latents(case[name]))))
        assert distance(out, latents(case[name.replace("in", "out")])) <= TOLERANCE


@each("turbo_decoder")
def test_turbo_decoder(case):
    """From every file of the folder: the same weights lie there as a pickle and as safetensors."""
    folder = weights_in(case.settings["weights"])
    files = [file for file in folder.iterdir() if file.suffix in (".ckpt", ".safetensors")]
    assert files
    for file in files:
        decoder = weights.load(converted(file) / "video_decoder")
        for name in case.numbered("decode.{}.in"):
            out = mx.concatenate(list(decoder(latents(case[name]))))
            assert distance(out, latents(case[name.replace("in", "out")])) <= TOLERANCE


@each("audio_vae")
def test_audio_encoder(case):
    vae = network(case, "audio_vae")
    for name in case.numbered("encode.{}.in"):
        mean, scale = vae.encode(case[name][0].T)
        assert distance(mean, case[name.replace("in", "mean")][0].T) <= TOLERANCE
        assert distance(scale, case[name.replace("in", "scale")][0].T) <= TOLERANCE


@each("audio_vae")
def test_audio_decoder(case):
    vae = network(case, "audio_vae")
    for name in case.numbered("decode.{}.in"):
        assert distance(vae.decode(case[name][0].T), case[name.replace("in", "out")][0].T) <= TOLERANCE
