"""Checkpoints as they are published, each made from the golden weights, give the reference's numbers."""

import json

import mlx.core as mx
import numpy as np
import pytest
from helpers import layouts
from helpers.golden_cases import Case, distance, latents

from mlx_happyhorse import ModelError, RequestError
from mlx_happyhorse.convert import convert
from mlx_happyhorse.diffusion.sampling import Velocity
from mlx_happyhorse.storage import weights

TOLERANCE = 1e-4


def transformer_error(folder):
    """How far the velocity of a converted transformer is from the reference's."""
    case = Case(layouts.GOLDEN / "transformer.t2v-base.safetensors")
    model = weights.load(folder / "transformer")
    velocity = Velocity(model)(*(latents(case[f"in.{name}"]) for name in ("video", "audio", "text")))
    reference = (latents(case[f"fp32.velocity_{name}"]) for name in ("video", "audio"))
    return max(map(distance, velocity, reference))


@pytest.mark.parametrize("layout", layouts.TRANSFORMERS)
def test_transformers(tmp_path, layout):
    source = layouts.TRANSFORMERS[layout](layouts.golden("transformer"), tmp_path)
    convert([source], tmp_path / "out", dtype="float32")
    assert transformer_error(tmp_path / "out") <= TOLERANCE
    assert json.loads((tmp_path / "out/config.json").read_text())["variant"] == "base"


def test_fp8_is_its_numbers_times_their_scale(tmp_path):
    tensors = layouts.golden("transformer")
    source = layouts.fp8_file(tensors, tmp_path / "base_fp8.safetensors")
    convert([source], tmp_path / "fp8", dtype="float32")
    packed = layouts.in_fp8(tensors)
    scaled = {
        name: mx.from_fp8(packed[name], mx.float32) * packed[f"{name}.__fp8_scale"]
        if f"{name}.__fp8_scale" in packed
        else packed[name]
        for name in tensors
    }
    convert([layouts.one_file(scaled, tmp_path / "base.safetensors")], tmp_path / "plain", dtype="float32")
    same = [(tmp_path / out / "transformer/model.safetensors").read_bytes() for out in ("fp8", "plain")]
    assert same[0] == same[1]
    assert 1e-3 < transformer_error(tmp_path / "fp8") < 0.1


def test_upscalers_are_told_by_their_folders(tmp_path):
    repo = tmp_path / "repo"
    tensors = layouts.golden("transformer")
    for folder in ("base", "distill", "540p_sr", "1080p_sr"):
        layouts.shards(tensors, repo / folder, 2, "model")
    convert([repo], tmp_path / "out", variant="distill")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["components"] == ["transformer", "upscaler_1080p", "upscaler_540p"]
    assert config["sources"]["transformer"]["path"] == "distill/model.safetensors.index.json"
    with pytest.raises(RequestError, match="both hold the transformer"):
        convert([repo], tmp_path / "other")


def test_fastvideos_super_resolution_folder(tmp_path):
    folder = tmp_path / "sr_540p"
    layouts.shards(layouts.golden("transformer"), folder / "sr_transformer", 6, "diffusion_pytorch_model")
    convert([folder / "sr_transformer"], tmp_path / "out", variant="base")
    assert (tmp_path / "out/upscaler_540p/model.safetensors").exists()


@pytest.mark.parametrize(
    "write",
    [
        lambda t, f: layouts.pickled(t, f / "Wan2.2_VAE.pth"),
        lambda t, f: layouts.one_file(t, f / "vae.safetensors"),
        lambda t, f: layouts.shards(t, f, 3, "diffusion_pytorch_model"),
    ],
)
def test_the_wan_vae(tmp_path, write):
    source = write(layouts.golden("video-vae"), tmp_path / "vae")
    convert([source], tmp_path / "out", variant="base")
    case = Case(layouts.GOLDEN / "video_vae.basic.safetensors")
    encoder, decoder = (weights.load(tmp_path / "out" / name) for name in ("video_encoder", "video_decoder"))
    encoded = encoder(latents(case["encode.0.in"]))
    decoded = mx.concatenate(list(decoder(latents(case["decode.0.in"]))))
    assert distance(encoded, latents(case["encode.0.out"])) <= TOLERANCE
    assert distance(decoded, latents(case["decode.0.out"])) <= TOLERANCE


def test_the_turbo_decoders_pickle_as_published(tmp_path):
    layouts.settings_of("turbo-decoder", tmp_path / "turbo_vae")
    source = tmp_path / "turbo_vae" / "checkpoint-340000.ckpt"
    layouts.pickled(layouts.golden("turbo-decoder"), source, "ema_state_dict", "module.")
    convert([source.parent], tmp_path / "out", variant="base")
    case = Case(layouts.GOLDEN / "turbo_decoder.basic.safetensors")
    decoder = weights.load(tmp_path / "out/video_decoder")
    decoded = mx.concatenate(list(decoder(latents(case["decode.0.in"]))))
    assert distance(decoded, latents(case["decode.0.out"])) <= TOLERANCE


@pytest.mark.parametrize("count", [1, 9])
def test_the_text_encoder(tmp_path, count):
    folder = tmp_path / "t5gemma"
    layouts.settings_of("text-encoder", folder)
    layouts.shards(layouts.golden("text-encoder"), folder, count, "model")
    convert([folder], tmp_path / "out", variant="base", dtype="float32")
    case = Case(layouts.GOLDEN / "text_encoder.basic.safetensors")
    encoder = weights.load(tmp_path / "out/text_encoder")
    assert distance(encoder(case["ids.0"].reshape(-1)), case["hidden.0"][0]) <= TOLERANCE
    tokenizers = [(f / "tokenizer.json").read_bytes() for f in (folder, tmp_path / "out/text_encoder")]
    assert tokenizers[0] == tokenizers[1]


def test_the_sound_model(tmp_path):
    folder = tmp_path / "stable-audio"
    layouts.settings_of("audio-vae", folder)
    tensors = layouts.golden("audio-vae")
    tensors |= {"model.model.timestep.weight": mx.zeros((64, 64))}
    convert(
        [layouts.one_file(tensors, folder / "model.safetensors").parent], tmp_path / "out", variant="base"
    )
    case = Case(layouts.GOLDEN / "audio_vae.basic.safetensors")
    vae = weights.load(tmp_path / "out/audio_vae")
    assert distance(vae.decode(case["decode.0.in"][0].T), case["decode.0.out"][0].T) <= TOLERANCE


def test_pickled_tensors_of_any_stride_and_width(tmp_path):
    import torch

    from mlx_happyhorse.convert.read.pickles import read_pickle
    from mlx_happyhorse.convert.read.sources import LocalFile
    from mlx_happyhorse.convert.read.tensors import Tensor

    base = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    state = {
        "plain": base,
        "channels last": base.to(memory_format=torch.channels_last),
        "transposed": base.reshape(6, 20).T,
        "a view": base[1, 1:],
        "half": base.half(),
        "brain": base.bfloat16(),
        "double": base.double(),
        "one": torch.tensor([3.0]),
        "parameter": torch.nn.Parameter(base),
    }
    torch.save(state, tmp_path / "a.pth")
    stored = read_pickle(LocalFile(tmp_path / "a.pth"))
    assert stored.keys() == state.keys()
    for name, tensor in state.items():
        ours = np.array(Tensor.of(stored[name]).materialise().astype(mx.float32))
        assert np.array_equal(ours, tensor.detach().float().numpy()), name


def test_what_is_none_of_them_is_described(tmp_path):
    layouts.one_file({"conv.weight": mx.zeros(3)}, tmp_path / "other" / "net.safetensors")
    with pytest.raises(ModelError, match=r"net\.safetensors holds no known network. Expected: a MagiHuman"):
        convert([tmp_path / "other"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"there is no \.safetensors, \.ckpt or \.pth file"):
        convert([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(RequestError, match="nowhere does not exist"):
        convert([tmp_path / "nowhere"], tmp_path / "out")


def test_parts_of_no_model_beside_the_right_ones_are_left_out_and_said(tmp_path):
    folder = tmp_path / "base"
    layouts.shards(layouts.golden("transformer"), folder, 2, "model")
    layouts.one_file({"conv.weight": mx.zeros(3)}, folder / "lora" / "extra.safetensors")
    notes = convert([folder], tmp_path / "out")
    assert any("extra.safetensors holds no known network" in note for note in notes)
