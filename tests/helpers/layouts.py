"""The golden weights in every layout that checkpoints are published in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"
FP8_MAX = 448.0

Tensors = dict[str, mx.array]
Write = Callable[[Tensors, Path], Path]  # writes tensors into a folder; returns what to convert


def golden(network: str) -> Tensors:
    return load(GOLDEN / f"{network}-tiny" / "model.safetensors")


def load(file: Path) -> Tensors:
    tensors: Any = mx.load(str(file))
    return tensors


def settings_of(network: str, folder: Path) -> None:
    """What lies beside the weights: configs and the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (GOLDEN / f"{network}-tiny").glob("*.json"):
        shutil.copyfile(file, folder / file.name)


def shards(tensors: Tensors, folder: Path, count: int, stem: str, index: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    where: dict[str, str] = {}
    for i in range(count):
        file = f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors"
        part = names[i::count]
        mx.save_safetensors(str(folder / file), {name: tensors[name] for name in part})
        where |= dict.fromkeys(part, file)
    if index:
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def one_file(tensors: Tensors, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(file), tensors)
    return file


def in_fp32(tensors: Tensors) -> Tensors:
    return {name: tensor.astype(mx.float32) for name, tensor in tensors.items()}


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def in_fp8(tensors: Tensors) -> Tensors:
    """Large matrices as E4M3 with a scale each, everything else in bf16."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        if tensor.dtype == mx.bfloat16:
            scale = mx.abs(tensor.astype(mx.float32)).max() / FP8_MAX
            out[name] = mx.to_fp8(tensor.astype(mx.float32) / scale)
            out[f"{name}.__fp8_scale"] = scale
        else:
            out[name] = tensor.astype(mx.bfloat16)
    return out


def fp8_file(tensors: Tensors, file: Path) -> Path:
    """MLX has no dtype for E4M3: the bytes are written as U8 and renamed in the header."""
    packed = in_fp8(tensors)
    one_file(packed, file)
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "U8":
            entry["dtype"] = "F8_E4M3"
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return file


def pickled(tensors: Tensors, file: Path, key: str | None = None, prefix: str = "") -> Path:
    import torch

    state = {
        prefix + name: torch.from_numpy(np.array(tensor.astype(mx.float32))).to(
            torch.bfloat16 if tensor.dtype == mx.bfloat16 else torch.float32
        )
        for name, tensor in tensors.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: state, "step": 7} if key else state, file)
    return file


TRANSFORMERS: dict[str, Write] = {
    "GAIR's bf16 shards": lambda t, f: shards(t, f / "base", 7, "model"),
    "GAIR's fp32 shards": lambda t, f: shards(in_fp32(t), f / "base", 13, "model"),
    "FastVideo's folder": lambda t, f: shards(t, f / "base/transformer", 6, "diffusion_pytorch_model"),
    "a repo of folders": lambda t, f: shards(
        t, f / "repo/base/transformer", 6, "diffusion_pytorch_model"
    ).parents[1],
    "shards without an index": lambda t, f: shards(t, f / "base", 3, "model", index=False),
    "one merged file": lambda t, f: one_file(t, f / "daVinci_base_bf16.safetensors"),
    "a folder with one file": lambda t, f: one_file(t, f / "base" / "merged.safetensors").parent,
    "ComfyUI's prefix": lambda t, f: one_file(under("model.diffusion_model.", t), f / "base.safetensors"),
    "Diffusers' prefix": lambda t, f: one_file(under("transformer.", t), f / "base.safetensors"),
    "two prefixes": lambda t, f: one_file(under("module.model.diffusion_model.", t), f / "base.safetensors"),
    "a pickle": lambda t, f: pickled(t, f / "base.pth", "state_dict"),
}
