"""Damaged and malicious checkpoints: refused by name, with the right exit code, and nothing left behind."""

import errno
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import layouts, networks
from helpers.served import same

from mlx_happyhorse import HappyHorseError
from mlx_happyhorse.cli import main
from mlx_happyhorse.convert import convert

FIRST, LAST = "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"
INDEX = "model.safetensors.index.json"
QKV = "block.layers.1.attention.linear_qkv.weight"


@pytest.fixture
def source(tmp_path):
    return layouts.shards(networks.published(), tmp_path / "base", 3, "model")


def refused(capsys, tmp_path, *arguments):
    """What the command says; beside the source there must be what was there before."""
    before = sorted(tmp_path.rglob("*"))
    assert main(["convert", "--hf-path", *map(str, arguments), "--mlx-path", str(tmp_path / "out")]) in (1, 2)
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and said.endswith(f"{errors[0]}\n")
    return errors[0]


def edit_header(file, change):
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def edit_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def tensors_in(header):
    return sorted((k for k in header if k != "__metadata__"), key=lambda k: header[k]["data_offsets"])


def overlap(header):
    first, second = tensors_in(header)[:2]
    size = header[second]["data_offsets"][1] - header[second]["data_offsets"][0]
    begin = header[first]["data_offsets"][0]
    header[second]["data_offsets"] = [begin, begin + size]


def beyond(header):
    last = tensors_in(header)[-1]
    header[last]["data_offsets"] = [n + 1_000_000 for n in header[last]["data_offsets"]]


def negative(header):
    first = tensors_in(header)[0]
    header[first]["data_offsets"] = [-8, header[first]["data_offsets"][1] - 8]


def huge(header):
    header[tensors_in(header)[0]]["shape"] = [1 << 40, 1 << 40]


def gap(header):
    *_, before, _ = tensors_in(header)
    del header[before]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (overlap, "overlaps another"),
        (beyond, "lies behind a gap"),
        (negative, "are not sizes"),
        (huge, "has a number of bytes that does not match its shape"),
        (gap, "lies behind a gap"),
        (lambda h: h[tensors_in(h)[0]].update(dtype="Q4"), "unknown dtype Q4"),
        (lambda h: h[tensors_in(h)[0]].update(shape="x"), "not a safetensors file"),
        (lambda h: h.update(surprise=3), "not a safetensors file"),
    ],
)
def test_headers_that_lie(source, tmp_path, capsys, change, message):
    edit_header(source / FIRST, change)
    said = refused(capsys, tmp_path, source)
    assert message in said and FIRST in said


@pytest.mark.parametrize("length", [1 << 60, (1 << 64) - 1, 15_000_000])
def test_headers_longer_than_their_file(source, tmp_path, capsys, length):
    data = (source / LAST).read_bytes()
    (source / LAST).write_bytes(length.to_bytes(8, "little") + data[8:])
    said = refused(capsys, tmp_path, source)
    assert f"its header cannot be {length} bytes long" in said and LAST in said


@pytest.mark.parametrize("size", [0, 5, 8, 200, -1])
def test_truncated_shards(source, tmp_path, capsys, size):
    (source / LAST).write_bytes((source / LAST).read_bytes()[:size])
    assert LAST in refused(capsys, tmp_path, source)


def test_a_header_that_names_a_tensor_twice(source, tmp_path, capsys):
    data = (source / FIRST).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip()
    name = tensors_in(json.loads(header))[0]
    header = (
        header[:-1] + b',"' + name.encode() + b'":' + json.dumps(json.loads(header)[name]).encode() + b"}"
    )
    (source / FIRST).write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    assert f"{name} is twice in its header" in refused(capsys, tmp_path, source)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "x.pth"])
def test_an_index_that_points_elsewhere(source, tmp_path, capsys, name):
    edit_index(source, lambda index: index.update({QKV: name}))
    said = refused(capsys, tmp_path, source)
    assert f"names {name!r}, which is not a file beside it" in said


def test_an_index_that_names_a_missing_shard(source, tmp_path, capsys):
    edit_index(source, lambda index: index.update({QKV: "model-00009-of-00003.safetensors"}))
    assert "model-00009-of-00003.safetensors is missing" in refused(capsys, tmp_path, source)


def test_an_index_that_names_the_wrong_shard(source, tmp_path, capsys):
    edit_index(source, lambda index: index.update({QKV: FIRST if index[QKV] != FIRST else LAST}))
    assert QKV in refused(capsys, tmp_path, source)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {}}', '{"weight_map": 3}', "[" * 100_000])
def test_an_index_that_is_none(source, tmp_path, capsys, text):
    (source / INDEX).write_text(text)
    assert INDEX in refused(capsys, tmp_path, source)


def test_a_tensor_in_two_shards(source, tmp_path, capsys):
    tensors = mx.load(str(source / FIRST)) | {QKV: networks.published()[QKV]}
    mx.save_safetensors(str(source / FIRST), tensors)
    mx.save_safetensors(str(source / LAST), mx.load(str(source / LAST)) | {QKV: tensors[QKV]})
    assert QKV in refused(capsys, tmp_path, source)
    (source / INDEX).unlink()
    assert f"tensor {QKV} is in both" in refused(capsys, tmp_path, source)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [QKV, "final_norm_video.weight"])
def test_numbers_that_are_none(tmp_path, capsys, name, value):
    tensors = networks.published()
    tensors[name] = mx.where(
        mx.arange(tensors[name].size).reshape(tensors[name].shape) == 17, value, tensors[name]
    )
    source = networks.save(tensors, tmp_path / "base")
    assert f"tensor {name} contains NaN or infinity" in refused(capsys, tmp_path, source, "-q")


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("hostile-was-here"),)


def archive(file, data):
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("archive/data.pkl", data)
        zipped.writestr("archive/data/0", bytes(64))
    return file


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "state", [{"state_dict": Hostile()}, Hostile(), {"state_dict": {}, "x": [Hostile()]}]
)
def test_pickles_that_would_run_code(tmp_path, capsys, monkeypatch, in_empty_folder, state, protocol):
    data = pickle.dumps(state, protocol)
    (tmp_path / "raw.ckpt").write_bytes(data)
    assert "raw.ckpt" in refused(capsys, tmp_path, "raw.ckpt")
    said = refused(capsys, tmp_path, archive(tmp_path / "zipped.ckpt", data))
    assert "zipped.ckpt is not a checkpoint of plain tensors: it refers to " in said


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02r\xff\xff\xff\x7fN.", "a memo index is out of range"),
        (b"\x80\x02", "not a checkpoint"),
        (b"\x80\x02cbuiltins\neval\nU\x011\x85R.", "it refers to builtins.eval"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "not a checkpoint"),
        (pickle.dumps([1, 2]), "holds a list, not a dict of tensors"),
        (pickle.dumps({"a": 1}), "holds no tensors"),
    ],
)
def test_pickles_of_nonsense(tmp_path, capsys, data, message):
    assert message in refused(capsys, tmp_path, archive(tmp_path / "bad.pth", data))


def test_a_pickled_tensor_that_reaches_beyond_its_bytes(tmp_path, capsys):
    import torch

    torch.save({"a": torch.zeros(4, 4)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as zipped:
        records = {info.filename: zipped.read(info) for info in zipped.infolist()}
    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as zipped:
        for name, data in records.items():
            zipped.writestr(name, data[:32] if name.endswith("data/0") else data)
    (tmp_path / "a.pth").unlink()
    assert "tensor a is larger than its data" in refused(capsys, tmp_path, tmp_path / "bad.pth")


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_written(
    source, tmp_path, monkeypatch, capsys
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000))
    assert "GB more, 0.0 GB are free" in refused(capsys, tmp_path, source)


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EIO, "could not be written")]
)
def test_a_disk_that_fails_under_way_keeps_what_is_done(
    source, tmp_path, monkeypatch, capsys, number, message
):
    writes = iter(range(100))
    write = os.pwrite

    def fail(*arguments):
        if next(writes) > 20:
            raise OSError(number, os.strerror(number))
        return write(*arguments)

    command = ["convert", "--hf-path", str(source), "--mlx-path", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        assert main(command) == 1
    said = capsys.readouterr().err
    assert message in said and "same command" in said
    assert {file.name for file in tmp_path.iterdir()} == {"base", ".out.partial"}
    assert main(command) == 0
    convert([source], tmp_path / "undisturbed")
    assert same(tmp_path / "out/transformer", tmp_path / "undisturbed/transformer")
    assert {file.name for file in tmp_path.iterdir()} == {"base", "out", "undisturbed"}


def test_a_target_that_cannot_be_written_to(source, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "model"
    assert main(["convert", "--hf-path", str(source), "--mlx-path", str(target)]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_an_existing_target_is_kept_unless_told_otherwise(source, tmp_path, capsys):
    target = tmp_path / "model"
    target.mkdir()
    (target / "diary.txt").write_text("dear")
    command = ["convert", "--hf-path", str(source), "--mlx-path", str(target)]
    assert main(command) == 2
    assert "already exists: choose another folder" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 2
    assert "is not a model folder and will not be overwritten" in capsys.readouterr().err
    assert [file.name for file in target.iterdir()] == ["diary.txt"]
    (target / "diary.txt").unlink()
    assert main([*command, "--overwrite"]) == 0
    before = (target / "transformer/model.safetensors").stat().st_size
    assert main([*command, "--overwrite", "-q", "--q-group-size", "32"]) == 0
    assert (target / "transformer/model.safetensors").stat().st_size < before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["base", "model"]


def test_what_is_converted_is_not_overwritten_by_what_becomes_of_it(source, tmp_path, capsys):
    convert([source], tmp_path / "model")
    shutil.move(source, tmp_path / "model/base")
    command = ["convert", "--hf-path", str(tmp_path / "model/base"), "--mlx-path", str(tmp_path / "model")]
    assert main([*command, "--overwrite"]) == 2
    assert "which would be overwritten" in capsys.readouterr().err
    assert (tmp_path / "model/base" / FIRST).exists()


def test_a_replaced_folder_comes_back_if_the_new_one_did_not_get_there(source, tmp_path):
    convert([source], tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / ".model.old")  # as a kill between two renames leaves it
    with pytest.raises(HappyHorseError, match="already exists"):
        convert([source], tmp_path / "model")
    assert (tmp_path / "model/config.json").exists()


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("adapter.video_embedder.weight", mx.zeros(64), "impossible shapes"),
        ("adapter.video_embedder.weight", mx.zeros((0, 192)), "impossible shapes"),
        ("block.layers.0.attention.pre_norm.weight", mx.array(1.0), "impossible shapes"),
        ("block.layers.1.mlp.down_proj.weight", mx.zeros((64, 100), mx.uint8), "has unsupported dtype U8"),
        ("block.layers.1.mlp.down_proj.weight", mx.zeros((64, 100), mx.int64), "has unsupported dtype I64"),
    ],
)
def test_tensors_that_no_network_has(tmp_path, capsys, name, tensor, message):
    source = networks.save(networks.published() | {name: tensor}, tmp_path / "base")
    assert message in refused(capsys, tmp_path, source)


def test_companions_of_other_lengths(tmp_path, capsys):
    tensors = layouts.golden("audio-vae")
    name = "pretransform.model.encoder.layers.5.layers.4.weight_g"
    source = networks.save(tensors | {name: tensors[name][:32]}, tmp_path / "audio")
    assert "have different numbers of rows" in refused(capsys, tmp_path, source, "--variant", "base")


def test_an_fp8_scale_that_is_not_one_number(tmp_path, capsys):
    source = networks.save(networks.published() | {f"{QKV}.__fp8_scale": mx.ones(64)}, tmp_path / "base")
    assert "__fp8_scale is not a scalar" in refused(capsys, tmp_path, source)


def test_a_small_pickle_that_would_become_large(tmp_path, capsys):
    import torch

    torch.save({"a": torch.zeros(1).expand(1 << 14, 1 << 14)}, tmp_path / "a.pth")
    assert "tensor a is larger than its data" in refused(capsys, tmp_path, tmp_path / "a.pth")


@pytest.mark.parametrize("target", [".", "/"])
def test_folders_that_cannot_be_made(source, target, capsys):
    assert main(["convert", "--hf-path", str(source), "--mlx-path", target]) == 2
    assert capsys.readouterr().err.startswith("Error: ")


def test_a_failed_replacement_keeps_what_was_there(source, tmp_path):
    convert([source], tmp_path / "model")
    before = (tmp_path / "model/config.json").read_bytes()
    (source / LAST).write_bytes(b"")
    with pytest.raises(HappyHorseError):
        convert([source], tmp_path / "model", overwrite=True)
    assert (tmp_path / "model/config.json").read_bytes() == before


def test_two_at_once_do_not_write_the_same_folder(source, tmp_path):
    from mlx_happyhorse.convert.write.job import locked

    with (
        locked(tmp_path / ".model.partial"),
        pytest.raises(HappyHorseError, match="another happyhorse process is writing"),
    ):
        convert([source], tmp_path / "model")
    assert not (tmp_path / "model").exists()
