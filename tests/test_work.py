"""Work in pieces: of rows, of queries, of a quantized matrix. The whole is the oracle."""

import math

import mlx.core as mx
import mlx.nn as nn
import pytest
from helpers import networks
from helpers.golden_cases import distance

from mlx_happyhorse.convert import convert
from mlx_happyhorse.diffusion.sampling import Velocity
from mlx_happyhorse.models import matmul, transformer
from mlx_happyhorse.models.matmul import UNLIMITED, Work, linear, split
from mlx_happyhorse.models.transformer import Layout, attend_rows
from mlx_happyhorse.storage import weights


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
@pytest.mark.parametrize("flops", [1, 2e4, math.inf])
def test_split_is_whole(tmp_path, rows, flops):
    source = networks.save(networks.published(), tmp_path / "source")
    convert([source], tmp_path / "model", variant="base", dtype="float32")
    whole, pieces = (
        Velocity(weights.load(tmp_path / "model/transformer", work=work))(*networks.inputs())
        for work in (UNLIMITED, Work(flops, rows))
    )
    for ours, expected in zip(pieces, whole, strict=True):
        assert distance(ours, expected) <= 1e-6


@pytest.mark.parametrize("reach", [None, 2])
def test_queries_of_any_rows_are_rows_of_all(reach):
    layout = Layout(video=9 * 4, audio=5, text=3, frames=9)
    n = layout.spans[2].stop
    keys = mx.random.split(mx.random.key(0), 3)
    q = mx.random.normal((n, 4, 16), key=keys[0])
    k, v = (mx.random.normal((n, 2, 16), key=key) for key in keys[1:])
    whole = attend_rows(q, k, v, 0, layout, reach, UNLIMITED)
    for start, stop in ((0, 1), (3, 17), (10, n), (38, 42)):
        rows = attend_rows(q[start:stop], k, v, start, layout, reach, Work(flops=5000))
        assert distance(rows, whole[start:stop]) <= 1e-6


def test_a_dispatch_stays_below_its_operations(monkeypatch):
    seen = []

    def count(q, k, v, scale):
        seen.append(4 * q.shape[1] * q.shape[2] * q.shape[3] * k.shape[2])
        return q

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", count)
    layout, work = Layout(video=900, audio=50, text=50, frames=9), Work(flops=4 * 64 * 1000 * 2 * 16)
    x = mx.zeros((1000, 2, 16))
    attend_rows(x, x, x, 0, layout, None, work)
    assert len(seen) == 16 and max(seen) <= work.flops
    assert sum(seen) == 4 * 1000 * 1000 * 2 * 16


def test_a_product_stays_below_its_operations(tmp_path, monkeypatch):
    source = networks.save(networks.published(), tmp_path / "source")
    convert([source], tmp_path / "model", variant="base", dtype="float32")
    seen = []

    def count(layer, x, work):
        seen.append(2 * x.size * layer.weight.shape[0])
        return layer(x)

    monkeypatch.setattr(transformer, "linear", count)
    work = Work(flops=2e5)
    Velocity(weights.load(tmp_path / "model/transformer", work=work))(*networks.inputs())
    assert 0.5 * work.flops < max(seen) <= work.flops


@pytest.mark.parametrize(("count", "most"), [(1, 1), (10, 3), (10, 10), (10, 99), (0, 3)])
def test_slices_are_all_rows_once(count, most):
    slices = list(split(slice(5, 5 + count), most))
    assert [i for s in slices for i in range(s.start, s.stop)] == list(range(5, 5 + count))
    assert all(s.stop - s.start <= most for s in slices)


@pytest.mark.parametrize("mode", [{"bits": 4}, {"bits": 8}, {"mode": "mxfp4", "group_size": 32}])
@pytest.mark.parametrize("expanded", [1, 300, 1 << 20])
def test_a_dequantized_product_is_the_quantized_one(monkeypatch, mode, expanded):
    monkeypatch.setattr(matmul, "DEQUANTIZED", expanded)
    dense = nn.Linear(64, 96, bias=False)
    layer = dense.to_quantized(**({"group_size": 64} | mode))
    x = mx.random.normal((20, 64), key=mx.random.key(0))
    few, many = linear(layer, x, Work(dense_rows=21)), linear(layer, x, Work(dense_rows=20))
    assert mx.array_equal(few, layer(x))
    assert distance(many, few) <= 1e-6


@pytest.mark.parametrize("quantized", [False, True])
def test_wide_matrices_are_turned_for_many_rows(monkeypatch, quantized):
    monkeypatch.setattr(matmul, "WIDE", 64)
    monkeypatch.setattr(matmul, "MANY", 4)
    turned = []
    contiguous = mx.contiguous
    monkeypatch.setattr(mx, "contiguous", lambda x: turned.append(x.shape) or contiguous(x))
    layer = nn.Linear(64, 32, bias=False)
    expected = layer.weight
    if quantized:
        layer = layer.to_quantized(64, 8)
        expected = mx.dequantize(layer.weight, layer.scales, layer.biases, 64, 8)
    for rows in (3, 5):
        x = mx.random.normal((rows, 64))
        assert distance(linear(layer, x, Work(dense_rows=2)), x @ expected.T) <= 1e-6
    assert turned == [(64, 32)]
