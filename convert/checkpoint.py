"""Reading published checkpoints: tensors by name, and the settings that lie beside them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_happyhorse.errors import ModelError, RequestError
from mlx_happyhorse.weights import read_json, read_tensors

PICKLES = (".ckpt", ".pth", ".pt")
PREFIXES = ("model.diffusion_model.", "module.")
MAX_SETTINGS_BYTES = 1_000_000


class Checkpoint:
    """Tensors of one network. `take` hands them out; what is left in the end nobody asked for."""

    def __init__(self, path: Path):
        if not path.exists():
            raise RequestError(f"{path} does not exist.")
        self.path = path
        self.folder = path if path.is_dir() else path.parent
        self.tensors = _strip_prefixes(_read(path))

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.tensors:
            raise ModelError(f"{self.path} lacks tensor {name}.")
        return tuple(self.tensors[name].shape)

    def take(self, name: str) -> mx.array:
        self.shape(name)
        return self.tensors.pop(name)

    def keep(self, prefix: str) -> None:
        """Keeps the tensors under `prefix`, without it, and forgets all others."""
        self.tensors = {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def count(self, pattern: str) -> int:
        """How many consecutive n, from 0, have a tensor whose name starts with pattern.format(n)."""
        n = 0
        while any(name.startswith(pattern.format(n)) for name in self.tensors):
            n += 1
        return n

    def settings(self, key: str) -> dict[str, Any]:
        """The JSON file beside the tensors that has `key` at its top, or nothing."""
        for file in sorted(self.folder.glob("*.json")):
            if file.stat().st_size > MAX_SETTINGS_BYTES:
                continue
            try:
                values = json.loads(file.read_text())
            except ValueError as error:
                raise ModelError(f"{file} is not valid JSON: {error}.") from error
            if isinstance(values, dict) and key in values:
                return values
        return {}


def _read(path: Path) -> dict[str, mx.array]:
    files = _files_of(path) if path.is_dir() else [path]
    tensors: dict[str, mx.array] = {}
    for file in files:
        read = _read_pickle if file.suffix in PICKLES else read_tensors
        tensors |= read(file)
    return tensors


def _files_of(folder: Path) -> list[Path]:
    for index in folder.glob("*.safetensors.index.json"):
        names = read_json(index).get("weight_map", {}).values()
        shards = [folder / Path(str(name)).name for name in sorted(set(names))]
        for shard in shards:
            if not shard.is_file():
                raise ModelError(f"{folder} lacks {shard.name}, which its {index.name} lists.")
        return shards
    files = sorted(folder.glob("*.safetensors"))
    files = files or sorted(f for f in folder.iterdir() if f.suffix in PICKLES)
    if not files:
        raise ModelError(
            f"{folder} holds no checkpoint: expected .safetensors, or one of {', '.join(PICKLES)}."
        )
    return files


def _read_pickle(file: Path) -> dict[str, mx.array]:
    try:
        import torch
    except ImportError as error:
        raise ModelError(
            f'{file.name} is a pickle, which needs PyTorch: pip install "mlx_happyhorse[convert]"'
        ) from error
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:
        first_line = str(error).split("\n")[0]
        raise ModelError(f"{file} is not a checkpoint of plain tensors: {first_line}") from error
    for key in ("ema_state_dict", "state_dict"):
        if isinstance(state, dict):
            state = state.get(key, state)
    if not isinstance(state, dict):
        raise ModelError(f"{file} holds a {type(state).__name__}, not tensors by name.")
    half = {torch.bfloat16: mx.bfloat16, torch.float16: mx.float16}
    return {
        name: mx.array(t.float().numpy()).astype(half.get(t.dtype, mx.float32))
        for name, t in state.items()
        if isinstance(t, torch.Tensor)
    }


def _strip_prefixes(tensors: dict[str, mx.array]) -> dict[str, mx.array]:
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
    return tensors
