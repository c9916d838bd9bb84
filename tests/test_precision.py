"""In 16-bit mode nothing large may quietly run in fp32."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from helpers import networks

from mlx_happyhorse.convert import Quantization, convert
from mlx_happyhorse.diffusion.sampling import Velocity
from mlx_happyhorse.storage import hub, weights

GOLDEN = Path(__file__).parent / "golden"
TEXT, TRANSFORMER = GOLDEN / "text-encoder-tiny", GOLDEN / "transformer-tiny"


@pytest.fixture
def seen(monkeypatch):
    """Records (module or "attention", dtypes at its door) of every linear and attention that runs."""
    calls = []

    def watch(owner, name, label):
        original = getattr(owner, name)

        def watched(*args, **kwargs):
            arrays = [a for a in args if isinstance(a, mx.array)]
            calls.append((label or args[0], {a.dtype for a in arrays}))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    watch(nn.Linear, "__call__", None)
    watch(nn.QuantizedLinear, "__call__", None)
    watch(mx.fast, "scaled_dot_product_attention", "attention")
    return calls


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("quantization", [None, Quantization(8, 32)])
def test_transformer(tmp_path, seen, quantization, dtype):
    source = networks.save(networks.published(), tmp_path / "source")
    convert([source], tmp_path / "out", variant="base", quantization=quantization)
    model = weights.load(tmp_path / "out/transformer", dtype)
    Velocity(model)(*networks.inputs())
    paths = {id(module): path for path, module in model.named_modules()}
    attentions = [dtypes for module, dtypes in seen if module == "attention"]
    assert attentions == [{dtype}] * 7  # one for each expert's tokens
    inner = {paths[id(m)]: dtypes for m, dtypes in seen if m != "attention" and "layers" in paths[id(m)]}
    outer = {paths[id(m)]: dtypes for m, dtypes in seen if m != "attention" and "layers" not in paths[id(m)]}
    assert len(inner) == 7 * 5
    assert all(dtypes == {dtype} for dtypes in inner.values())
    assert len(outer) == 5  # embedders and heads
    assert all(dtypes == {mx.float32} for dtypes in outer.values())
    for path, layer in model.named_modules():
        if path in inner:
            stored = layer.scales if isinstance(layer, nn.QuantizedLinear) else layer.weight
            assert stored.dtype == dtype, path


def test_fp32_weights_can_be_computed_in_16_bits(tmp_path):
    source = networks.save(networks.published(), tmp_path / "source")
    convert([source], tmp_path / "out", variant="base", dtype="float32")
    model = weights.load(tmp_path / "out/transformer", mx.bfloat16)
    stored = {path: layer.weight.dtype for path, layer in model.named_modules() if "weight" in layer}
    assert {dtype for path, dtype in stored.items() if path.endswith(("qkv", "gate", "down"))} == {
        mx.bfloat16
    }
    assert {dtype for path, dtype in stored.items() if "norm" in path or "embedder" in path} == {mx.float32}


@pytest.mark.parametrize("quantization", [None, Quantization(8, 32)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_text_encoder(tmp_path, seen, quantization, dtype):
    """Always in bf16: Gemma's residual stream outgrows fp16."""
    convert([TEXT, TRANSFORMER], tmp_path / "out", variant="base", dtype=dtype, quantization=quantization)
    encoder = weights.load(tmp_path / "out/text_encoder")
    assert isinstance(encoder.embed_tokens, nn.QuantizedEmbedding) == (quantization is not None)
    assert encoder(mx.arange(9)).dtype == mx.bfloat16
    assert len(seen) == 4 * (7 + 1)
    assert all(dtypes == {mx.bfloat16} for _, dtypes in seen)


def test_quantized_text_encoder_stays_close(tmp_path):
    for name, quantization in (("full", None), ("q", Quantization(8, 32))):
        convert(
            [TEXT, TRANSFORMER], tmp_path / name, variant="base", dtype="float32", quantization=quantization
        )
    ids = mx.arange(5, 40)
    full, quantized = (weights.load(tmp_path / name / "text_encoder")(ids) for name in ("full", "q"))
    assert 0 < mx.linalg.norm(quantized - full) < 0.05 * mx.linalg.norm(full)


@pytest.mark.parametrize("component", ["transformer", "text_encoder", "audio_vae", "video_encoder"])
def test_what_is_stored_in_fewer_bits_is_computed_in_as_many_as_the_config_says(tmp_path, component):
    source, halves = hub.find("tiny") / component, tmp_path / component
    halves.mkdir()
    (halves / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors = weights.read_tensors(source / "model.safetensors")
    halved = {name: tensor.astype(mx.float16) for name, tensor in tensors.items()}
    mx.save_safetensors(str(halves / "model.safetensors"), halved)
    loaded = weights.parameters(weights.load(halves))
    for name, tensor in weights.parameters(weights.load(source)).items():
        assert loaded[name].dtype == mx.float32
        assert mx.allclose(loaded[name], tensor, rtol=1e-3, atol=1e-6)
