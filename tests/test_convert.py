"""The converter: what it changes computes the same, and what is wrong is named."""

import json
import subprocess
import sys

import mlx.core as mx
import pytest
from helpers import networks

from mlx_happyhorse import ModelError, RequestError
from mlx_happyhorse.convert import convert
from mlx_happyhorse.models.transformer import gelu7, swiglu7
from mlx_happyhorse.storage import weights


def load(source, out, **options):
    convert([source], out, variant="base", **options)
    return weights.load(out / "transformer")


@pytest.fixture
def source(tmp_path):
    return networks.save(networks.published(), tmp_path / "source")


def test_dimensions_come_from_the_tensors(source, tmp_path):
    config = load(source, tmp_path / "out").config
    assert (config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim) == (64, 4, 2, 16)
    assert (config.modality_layers, config.gelu_layers) == ((0, 2), (0,))
    assert (config.gelu_size, config.swiglu_size) == (128, 128)


def test_split_padded_and_deinterleaved_mlp_computes_the_published_formula(source, tmp_path):
    model = load(source, tmp_path / "out", dtype="float32")
    published = {k: v.astype(mx.float32) for k, v in networks.published().items()}
    x = mx.random.normal((7, networks.HIDDEN), key=mx.random.key(3))
    for i, layer in enumerate(model.layers):
        block = f"block.layers.{i}.mlp."
        count = len(layer.experts)
        names = ("pre_norm", "up_gate_proj", "down_proj")
        parts = (mx.split(published[f"{block}{name}.weight"], count) for name in names)
        for expert, norm, up, down in zip(layer.experts, *parts, strict=True):
            h = x * mx.rsqrt(mx.mean(x * x, axis=-1, keepdims=True) + 1e-6) * (1 + norm)
            h = h @ up.T
            h = gelu7(h) if i == 0 else swiglu7(h[:, 0::2], h[:, 1::2])
            assert mx.allclose(expert.mlp(x, mx.float32), h @ down.T, atol=1e-4)


def test_split_attention_rows_are_the_published_ones(source, tmp_path):
    model = load(source, tmp_path / "out", dtype="float32")
    for i, layer in enumerate(model.layers):
        rows = networks.published()[f"block.layers.{i}.attention.linear_qkv.weight"]
        for expert, part in zip(layer.experts, mx.split(rows, len(layer.experts)), strict=True):
            assert mx.array_equal(mx.concatenate([expert.qkv.weight, expert.gate.weight]), part)


@pytest.mark.parametrize("variant", ["base", "distill"])
def test_defaults_are_the_references(source, tmp_path, variant):
    convert([source], tmp_path / "out", variant=variant)
    sampling = json.loads((tmp_path / "out/config.json").read_text())["sampling"]
    usual = {"seconds": 5, "width": 448, "height": 256, "upscale_steps": 5}
    steps = {"base": {"steps": 32, "guidance": 5.0}, "distill": {"steps": 8, "guidance": 1}}
    assert sampling == usual | steps[variant]


def test_small_tensors_stay_fp32(source, tmp_path):
    convert([source], tmp_path / "out", variant="base")
    tensors = mx.load(str(tmp_path / "out/transformer/model.safetensors"))
    half = {name.split(".")[-2] for name, t in tensors.items() if t.dtype == mx.bfloat16}
    full = {name.split(".")[-2] for name, t in tensors.items() if t.dtype == mx.float32}
    assert half == {"qkv", "gate", "proj", "up", "gate_up", "down"}
    assert full >= {"video_embedder", "video_head", "q_norm", "attention_norm", "mlp_norm", "video_norm"}


QKV = "block.layers.1.attention.linear_qkv.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(QKV), f"tensor {QKV} is missing"),
        (lambda t: t.update(surprise=mx.zeros(3)), "unknown tensor surprise"),
        (lambda t: t.update({QKV: mx.zeros((5, 64))}), r"layers\.1\.experts\.0\.(qkv|gate)"),
        (lambda t: t.update({"adapter.rope.bands": mx.ones(2)}), "unknown RoPE frequencies"),
    ],
)
def test_a_wrong_tensor_is_named_and_nothing_is_written(tmp_path, change, message):
    tensors = networks.published()
    change(tensors)
    source = networks.save(tensors, tmp_path / "source")
    with pytest.raises(ModelError, match=message):
        convert([source], tmp_path / "out", variant="base")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_missing_answers_are_asked_for(source, tmp_path):
    with pytest.raises(RequestError, match="cannot tell base from distill: pass variant"):
        convert([source], tmp_path / "out")
    with pytest.raises(ModelError, match=r"no audio_vae in .*model.safetensors holds transformer"):
        convert([f"audio_vae={source}"], tmp_path / "out", variant="base")
    with pytest.raises(RequestError, match="both hold the transformer"):
        convert([source, source], tmp_path / "out", variant="base")
    with pytest.raises(RequestError, match="already exists"):
        convert([source], source, variant="base")


@pytest.mark.parametrize(
    ("path", "variant", "component"),
    [
        ("base", "base", "transformer"),
        ("distill/transformer", "distill", "transformer"),
        ("sr_540p/transformer", None, "upscaler_540p"),
        ("1080p_sr", None, "upscaler_1080p"),
    ],
)
def test_folder_names_tell_variants_and_upscalers(tmp_path, path, variant, component):
    folder = networks.save(networks.published(), tmp_path / path)
    convert([folder], tmp_path / "out", variant=None if variant else "base")
    assert json.loads((tmp_path / "out/config.json").read_text())["variant"] == (variant or "base")
    assert (tmp_path / "out" / component / "model.safetensors").exists()


def test_the_1080p_upscaler_is_told_by_its_folder(tmp_path):
    folder = networks.save(networks.published(), tmp_path / "1080p_sr")
    convert([folder], tmp_path / "out", variant="base")
    config = json.loads((tmp_path / "out/upscaler_1080p/config.json").read_text())
    assert config["local_layers"] == [0, 1, 2]
    assert config["coordinates"] == "v1"


def test_conversion_needs_no_pytorch(source, tmp_path):
    code = (
        "import sys; from mlx_happyhorse.convert import convert; "
        f"convert([{str(source)!r}], {str(tmp_path / 'out')!r}, variant='base'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
