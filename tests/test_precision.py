"""In 16-bit mode nothing large may quietly run in fp32."""

import mlx.core as mx
import mlx.nn as nn
import networks
import pytest

from mlx_happyhorse import HappyHorse, weights
from mlx_happyhorse.convert import Quantization, convert
from mlx_happyhorse.sampling import Velocity


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
    assert attentions == [{dtype}] * 3
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


def test_text_encoder(tmp_path, seen):
    tiny = HappyHorse.load("tiny").folder / "text_encoder"
    encoder = weights.load(tiny)
    encoder.set_dtype(mx.bfloat16, lambda dtype: dtype == mx.float32)
    for name, module in encoder.named_modules():
        if name.endswith("norm"):
            module.weight = module.weight.astype(mx.float32)
    assert encoder(mx.arange(9)).dtype == mx.bfloat16
    assert len(seen) == 4 * (7 + 1)
    assert all(dtypes == {mx.bfloat16} for _, dtypes in seen)
