"""What is said of model folders and checkpoints, whole and damaged."""

import json
import shutil

import mlx.core as mx
import pytest
from helpers import layouts

from mlx_happyhorse.cli import main
from mlx_happyhorse.convert import Quantization, convert
from mlx_happyhorse.convert.layouts.collect import variant_of
from mlx_happyhorse.convert.read.checkpoint import checkpoints
from mlx_happyhorse.convert.read.sources import Folder
from mlx_happyhorse.convert.write import shards
from mlx_happyhorse.convert.write.journal import Journal
from mlx_happyhorse.storage import weights
from mlx_happyhorse.storage.checksums import SUMS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_SHARD_BYTES", 400_000)
    source = layouts.GOLDEN / "transformer-tiny"
    convert([source, layouts.GOLDEN / "audio-vae-tiny"], tmp_path / "model", variant="base")
    return tmp_path / "model"


def checked(folder, capsys):
    code = main(["check", str(folder)])
    return code, capsys.readouterr().err


def flip(file):
    data = bytearray(file.read_bytes())
    data[-9] ^= 4
    file.write_bytes(data)


def save_without_sums(folder, change):
    file = sorted(folder.glob("*.safetensors"))[0]
    tensors = mx.load(str(file))
    change(tensors)
    mx.save_safetensors(str(file), tensors)
    for name in (SUMS, weights.INDEX):
        (folder / name).unlink(missing_ok=True)


def test_a_whole_model(folder, capsys):
    assert len(list((folder / "transformer").glob("model-*-of-*.safetensors"))) > 2
    code, said = checked(folder, capsys)
    assert code == 0 and f"{folder}: no problems found." in said
    (folder / "transformer" / SUMS).unlink()
    assert checked(folder, capsys)[0] == 0


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "shard"])
@pytest.mark.parametrize("damage", [flip, lambda file: file.unlink(), lambda file: file.write_bytes(b"")])
def test_files_that_are_not_what_they_were(folder, capsys, name, damage):
    file = folder / "transformer" / name
    if name == "shard":
        file = sorted(file.parent.glob("*.safetensors"))[1]
    damage(file)
    code, said = checked(folder, capsys)
    problem = "does not match its checksum" if file.exists() else "is missing"
    assert code == 1 and f"transformer/{file.name}: {problem}" in said
    assert main(["check", str(folder), "--fix"]) == 2
    assert "source on the Hub is unknown: convert it again" in capsys.readouterr().err


def test_a_shard_too_many(folder, capsys):
    first = sorted((folder / "transformer").glob("*.safetensors"))[0]
    shutil.copyfile(first, first.with_name("model-extra.safetensors"))
    assert "model-extra.safetensors: is not listed in" in checked(folder, capsys)[1]


def test_a_component_that_is_gone(folder, capsys):
    shutil.rmtree(folder / "audio_vae")
    code, said = checked(folder, capsys)
    assert code == 1 and "audio_vae: is missing" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(folder, capsys, value):
    def spoil(tensors):
        name = sorted(tensors)[0]
        tensors[name] = mx.full(tensors[name].shape, value, tensors[name].dtype)

    save_without_sums(folder / "audio_vae", spoil)
    assert "contains NaN or infinity" in checked(folder, capsys)[1]


def test_names_and_shapes_that_are_wrong(folder, capsys):
    save_without_sums(folder / "audio_vae", lambda tensors: tensors.pop(min(tensors)))
    assert "audio_vae cannot be used: the checkpoint lacks tensor" in checked(folder, capsys)[1]


def test_an_index_that_says_otherwise(folder, capsys):
    index = folder / "transformer" / weights.INDEX
    values = json.loads(index.read_text())
    name = min(values["weight_map"])
    values["weight_map"][name] = "model-00009-of-00009.safetensors"
    index.write_text(json.dumps(values))
    (index.parent / SUMS).unlink()
    assert f"has tensor {name} in model-00009-of-00009.safetensors" in checked(folder, capsys)[1]


def test_converting_loading_and_saving_give_the_same_bytes(folder, tmp_path):
    convert(
        [layouts.GOLDEN / "transformer-tiny"],
        tmp_path / "q",
        variant="base",
        quantization=Quantization(4, 32),
    )
    for component in (folder / "transformer", folder / "audio_vae", tmp_path / "q" / "transformer"):
        stored = {k: v for file in component.glob("*.safetensors") for k, v in mx.load(str(file)).items()}
        loaded = weights.parameters(weights.load(component))
        mx.save_safetensors(str(tmp_path / "again.safetensors"), loaded)
        again = mx.load(str(tmp_path / "again.safetensors"))
        assert again.keys() == stored.keys()
        for name, tensor in stored.items():
            assert again[name].dtype == tensor.dtype
            assert mx.array_equal(again[name].view(mx.uint8), tensor.view(mx.uint8))


def test_info_on_a_model(folder, capsys):
    assert main(["info", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "magihuman base" in said and "6 layers, hidden size 64, 4 heads" in said
    assert "memory: one network is loaded at a time" in said


def test_info_on_checkpoints(tmp_path, capsys):
    layouts.shards(layouts.golden("transformer"), tmp_path / "repo/540p_sr", 2, "model")
    layouts.settings_of("text-encoder", tmp_path / "repo/t5")
    layouts.one_file(layouts.golden("text-encoder"), tmp_path / "repo/t5/model.safetensors")
    layouts.one_file({"conv.weight": mx.zeros(3)}, tmp_path / "repo/other.safetensors")
    assert main(["info", str(tmp_path / "repo")]) == 0
    said = capsys.readouterr().out
    assert "upscaler_540p " in said and "text_encoder " in said
    assert "other.safetensors: no known network among its tensors (1)" in said
    assert main(["info", str(tmp_path / "repo/t5")]) == 0
    assert "512 tokens" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main(["info", str(tmp_path / "empty")]) == 2


@pytest.mark.parametrize("command", [["generate", "x", "--model"], ["check"], ["info"], ["download"]])
def test_happyhorse_is_not_published(capsys, command):
    assert main([*command, "happyhorse-1.0"]) == 2
    assert "magihuman-distill (8 steps) or magihuman-base" in capsys.readouterr().err


@pytest.mark.parametrize("names", [None, 3, [], [1], ["../../.."], ["transformer", "secret"]])
def test_components_that_are_none_of_ours(folder, capsys, names):
    config = json.loads((folder / "config.json").read_text()) | {"components": names}
    (folder / "config.json").write_text(json.dumps(config))
    for command in ("check", "info"):
        main([command, str(folder)])
        assert "does not name its components" in capsys.readouterr().err or command == "info"
    assert main(["check", str(folder), "--fix"]) == 2


def test_what_was_said_of_a_shard_is_forgotten_when_it_is_begun_anew(tmp_path):
    """Or a run that is killed over it would leave zeros that the next takes for done."""
    journal = Journal(tmp_path / "journal")
    for name in ("a", "b"):
        journal.add("tensors", name, None)
    journal.begin("model.safetensors", ["a"])
    assert journal.tensors.keys() == Journal(tmp_path / "journal").tensors.keys() == {"b"}


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("base/x", "base"),
        ("database/x", None),
        ("base_distill/x", None),
        ("davinci-distill-bf16/x", "distill"),
    ],
)
def test_variants_are_told_by_whole_words(tmp_path, path, told):
    file = layouts.one_file(layouts.golden("transformer"), tmp_path / path / "model.safetensors")
    (checkpoint,) = checkpoints(Folder(file.parent))
    assert variant_of(checkpoint) == told
