"""Quantized weights: what they compute, what is reported of them, and the way back."""

import json
import math

import mlx.core as mx
import mlx.nn as nn
import pytest
from helpers import layouts, networks

from mlx_happyhorse import ModelError, RequestError
from mlx_happyhorse.cli import main
from mlx_happyhorse.convert import Quantization, convert
from mlx_happyhorse.convert.write.quantization import RECIPES
from mlx_happyhorse.diffusion.sampling import Velocity
from mlx_happyhorse.storage import weights

AFFINE = [Quantization(bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64)]
MICROSCALING = [Quantization(mode=mode) for mode in ("mxfp4", "mxfp8", "nvfp4")]


@pytest.fixture
def source(tmp_path):
    return networks.save(networks.published(), tmp_path / "source")


def model_in(source, out, **options):
    convert([source], out, variant="base", **options)
    return weights.load(out / "transformer")


def read(folder, file):
    return json.loads((folder / "transformer" / file).read_text())


@pytest.mark.parametrize("how", AFFINE + MICROSCALING, ids=str)
def test_quantized_weights_compute_what_their_dequantized_ones_do(source, tmp_path, how):
    quantized = model_in(source, tmp_path / "q", dtype="float32", quantization=how, recipe="uniform")
    plain = model_in(source, tmp_path / "plain", dtype="float32")
    changed = 0
    for path, layer in quantized.named_modules():
        if isinstance(layer, nn.QuantizedLinear):
            target = dict(plain.named_modules())[path]
            target.weight = how.dequantize(layer.weight, layer.scales, layer.get("biases"))
            changed += 1
    assert changed == 7 * 4  # seven experts of four matrices; gates, embedders and heads stay
    video, audio, text = networks.inputs()
    velocities = (Velocity(model)(video, audio, text) for model in (quantized, plain))
    for a, b in zip(*velocities, strict=True):
        assert mx.linalg.norm(a - b) <= 1e-4 * mx.linalg.norm(b)


@pytest.mark.parametrize("how", [Quantization(4, 32), Quantization(mode="mxfp8")], ids=str)
def test_chunks_are_quantized_as_the_complete_matrix_is(source, tmp_path, monkeypatch, how):
    monkeypatch.setattr("mlx_happyhorse.convert.read.tensors.CHUNK_BYTES", 700)
    convert([source], tmp_path / "chunks", variant="base", quantization=how, recipe="uniform")
    convert([source], tmp_path / "plain", variant="base")
    chunks = mx.load(str(tmp_path / "chunks/transformer/model.safetensors"))
    plain = mx.load(str(tmp_path / "plain/transformer/model.safetensors"))
    for name in [name for name in chunks if name.endswith("scales")]:
        whole = how.quantize(plain[name.replace("scales", "weight")])
        assert all(mx.array_equal(whole[part], chunks[name.replace("scales", part)]) for part in whole)


@pytest.mark.parametrize("how", AFFINE + MICROSCALING, ids=str)
def test_the_reported_errors_are_the_matrices(source, tmp_path, how):
    model = model_in(source, tmp_path / "q", quantization=how, recipe="uniform")
    convert([source], tmp_path / "plain", variant="base")
    exact = mx.load(str(tmp_path / "plain/transformer/model.safetensors"))
    report = read(tmp_path / "q", "quantization.json")
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, nn.QuantizedLinear)}
    assert report.keys() == layers.keys()
    for path, layer in layers.items():
        weight = exact[f"{path}.weight"].astype(mx.float32)
        stored = how.dequantize(layer.weight, layer.scales, layer.get("biases"))
        error = (mx.linalg.norm(stored - weight) / mx.linalg.norm(weight)).item()
        assert math.isclose(report[path]["weight_error"], error, rel_tol=1e-3)
        assert report[path]["output_error"] == pytest.approx(error, rel=0.35)  # of random activations
        assert {k: report[path][k] for k in ("bits", "group_size", "mode")} == how.settings()


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_each_matrix_got_is_in_the_config_and_is_loaded(tmp_path, recipe):
    folder = layouts.GOLDEN / "transformer-tiny"
    convert([folder], tmp_path / "q", variant="base", quantization=Quantization(4, 32), recipe=recipe)
    report = read(tmp_path / "q", "quantization.json")
    model = weights.load(tmp_path / "q/transformer")
    for path, layer in model.named_modules():
        if isinstance(layer, nn.QuantizedLinear):
            assert (layer.bits, layer.group_size) == (report[path]["bits"], report[path]["group_size"])
    bits = {one["bits"] for one in report.values()}
    assert bits == {4} if recipe == "uniform" else min(bits) >= 4


def test_what_is_left_alone_is_said_and_why(source, tmp_path):
    how = Quantization(4, 128)
    report = convert([source], tmp_path / "out", variant="base", quantization=how, recipe="uniform")
    assert any("layers.*.experts.*.gate (×7)" in line for line in report)
    assert any("video_embedder" in line and "fp32" in line for line in report)
    assert any("qkv (×7)" in line and "64 is not a multiple of the group size 128" in line for line in report)


def test_the_card_sums_the_report_up(source, tmp_path):
    convert([source], tmp_path / "out", variant="base", quantization=Quantization(4, 32), recipe="uniform")
    card = (tmp_path / "out/README.md").read_text()
    assert "| transformer | layers.*.experts.*.qkv (×7) | affine 4 bits, groups of 32 | 0.0" in card
    assert card.startswith("---\nlibrary_name: mlx\nlicense: apache-2.0\n")


def test_a_model_folder_is_requantized(source, tmp_path):
    how = Quantization(4, 32)
    convert([source], tmp_path / "plain", variant="distill", dtype="float32")
    convert([tmp_path / "plain"], tmp_path / "again", dtype="float32", quantization=how)
    convert([source], tmp_path / "at once", variant="distill", dtype="float32", quantization=how)
    files = [tmp_path / name / "transformer/model.safetensors" for name in ("again", "at once")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert json.loads((tmp_path / "again/config.json").read_text())["variant"] == "distill"
    fewer = tmp_path / "fewer"
    convert([tmp_path / "again"], fewer, dtype="float32", quantization=Quantization(2, 64), recipe="uniform")
    assert read(fewer, "config.json")["quantization"]["bits"] == 2


@pytest.mark.parametrize("how", [Quantization(6, 32), *MICROSCALING], ids=str)
def test_a_model_folder_is_dequantized(source, tmp_path, how):
    quantized = model_in(source, tmp_path / "q", quantization=how)
    assert main(["convert", "--model", str(tmp_path / "q"), "--mlx-path", str(tmp_path / "d"), "-d"]) == 0
    config = read(tmp_path / "d", "config.json")
    assert "quantization" not in config and config["dtype"] == "bfloat16"
    plain = mx.load(str(tmp_path / "d/transformer/model.safetensors"))
    for path, layer in quantized.named_modules():
        if isinstance(layer, nn.QuantizedLinear):
            again = Quantization(layer.bits, layer.group_size, layer.mode)
            exact = again.dequantize(layer.weight, layer.scales, layer.get("biases"))
            assert mx.array_equal(plain[f"{path}.weight"], exact)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-q", "--q-bits", "7"], "7 bits in groups of 64 are not supported"),
        (["-q", "--q-group-size", "16"], "4 bits in groups of 16 are not supported"),
        (["-q", "--q-mode", "fp4"], "unknown quantization mode 'fp4'"),
        (["-q", "--q-mode", "mxfp4", "--q-bits", "8"], "mxfp4 supports only 4 bits in groups of 32"),
        (["-q", "--quant-predicate", "best"], "'best' is unknown: choose from"),
        (["--dtype", "int8"], "'int8' is unknown: choose from bfloat16"),
        (["--q-mode", "mxfp4"], "--q-mode has no effect"),
        (["--q-bits", "4"], "--q-bits has no effect"),
        (["-d"], "no source is quantized"),
        (["-d", "-q"], "cannot be combined"),
    ],
)
def test_wrong_flags_are_refused(source, tmp_path, capsys, flags, message):
    command = ["convert", "--hf-path", str(source), "--mlx-path", str(tmp_path / "out"), "--variant", "base"]
    assert main([*command, *flags]) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_model_folder_needs_to_be_told_what_for(source, tmp_path):
    convert([source], tmp_path / "model", variant="base")
    with pytest.raises(RequestError, match="is already converted: pass quantization to requantize it"):
        convert([tmp_path / "model"], tmp_path / "out")
    with pytest.raises(RequestError, match="no source is quantized"):
        convert([tmp_path / "model"], tmp_path / "out", dequantize=True)


def test_a_damaged_model_folder_is_named(source, tmp_path):
    convert([source], tmp_path / "model", variant="base", quantization=Quantization(4, 32))
    file = tmp_path / "model/transformer/model.safetensors"
    tensors = mx.load(str(file))
    name = next(name for name in tensors if name.endswith("scales"))
    mx.save_safetensors(str(file), {k: v for k, v in tensors.items() if k != name})
    with pytest.raises(ModelError, match=name.rpartition(".")[0]):
        convert([tmp_path / "model"], tmp_path / "out", quantization=Quantization(8))
