"""The Hub repos of the published weights at toy size: names of repos, files and tensors as published."""

from __future__ import annotations

import json
import shutil
from itertools import accumulate
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from helpers import layouts

GOLDEN = Path(__file__).parents[1] / "golden"
MAGIHUMAN = "GAIR/daVinci-MagiHuman"
T5GEMMA = "google/t5gemma-9b-9b-ul2"
STABLE_AUDIO = "stabilityai/stable-audio-open-1.0"
WAN = "Wan-AI/Wan2.2-TI2V-5B"
GATED = (T5GEMMA, STABLE_AUDIO)
SHARDED = {"base": (7, mx.bfloat16), "distill": (13, mx.float32)} | dict.fromkeys(
    ("540p_sr", "1080p_sr"), (13, mx.float32)
)
# Which of the golden transformer's six layers each of the forty is like: two with experts and GELU7, two
# shared by all tokens, two with experts.
LAYERS = [0, 1, 0, 1, *([2, 3] * 16), 4, 5, 4, 5]
WIDER = 4  # than the golden text encoder, so that its rows can be quantized and its header weighs little

Tensors = dict[str, mx.array]


def write(root: Path) -> None:
    """Writes the four repos, root/OWNER/NAME, some 55 MB."""
    for i, (folder, (count, dtype)) in enumerate(SHARDED.items()):
        save_shards(transformer(dtype, seed=i), root / MAGIHUMAN / folder, count)
    write_turbo_decoder(root / MAGIHUMAN / "turbo_vae")
    write_text_encoder(root / T5GEMMA)
    write_audio_vae(root / STABLE_AUDIO)
    write_video_vae(root / WAN)
    for repo in (MAGIHUMAN, T5GEMMA, STABLE_AUDIO, WAN):
        (root / repo / "README.md").write_text("---\nlibrary_name: other\n---\n")


def used(root: Path, variant: str = "distill") -> dict[str, int]:
    """By component, the bytes that a model is made of: its tensors' and the tokenizer's."""
    video = _pickled(root / WAN / "Wan2.2_VAE.pth")
    return {
        "transformer": _bytes_in(root / MAGIHUMAN / variant),
        "text_encoder": _bytes_in(root / T5GEMMA, "model.encoder.")
        + (root / T5GEMMA / "tokenizer.json").stat().st_size,
        "video_encoder": sum(n for name, n in video.items() if name.startswith(("encoder.", "conv1."))),
        "video_decoder": sum(
            _pickled(root / MAGIHUMAN / "turbo_vae/checkpoint-340000.ckpt", "ema_state_dict").values()
        ),
        "audio_vae": _bytes_in(root / STABLE_AUDIO, "pretransform."),
    }


def transformer(dtype: mx.Dtype, seed: int) -> Tensors:
    golden, width = _golden("transformer-tiny"), WIDER * 32
    normal = _Normal(seed)
    tensors = {name: normal.like(tensor) for name, tensor in golden.items() if "layers" not in name}
    tensors["adapter.rope.bands"] = golden["adapter.rope.bands"]
    tensors["adapter.text_embedder.weight"] = normal(len(golden["adapter.text_embedder.weight"]), width)
    for i, like in enumerate(LAYERS):
        prefix = f"block.layers.{like}."
        for name in (name for name in golden if name.startswith(prefix)):
            small = golden[name].dtype == mx.float32
            tensor = normal.like(golden[name])
            tensors[name.replace(prefix, f"block.layers.{i}.")] = tensor if small else tensor.astype(dtype)
    return tensors


def write_text_encoder(folder: Path) -> None:
    golden, normal = GOLDEN / "text-encoder-tiny", _Normal(10)
    tensors = {
        name: normal(*(n if n == 512 else WIDER * n for n in tensor.shape)).astype(mx.bfloat16)
        for name, tensor in _golden("text-encoder-tiny").items()
    }
    save_shards(tensors, folder, 9)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(golden / name, folder / name)
    config = json.loads((golden / "config.json").read_text())
    for half in (config["encoder"], config["decoder"]):
        for key in ("hidden_size", "intermediate_size", "head_dim", "query_pre_attn_scalar"):
            half[key] *= WIDER
    _write_json(folder / "config.json", config)


def write_audio_vae(folder: Path) -> None:
    """Of which the VAE is an eighth."""
    tensors = {name: t for name, t in _golden("audio-vae-tiny").items() if name.startswith("pretransform.")}
    _save_pickle({"state_dict": tensors}, folder / "model.ckpt")
    width = int((7 * sum(t.nbytes for t in tensors.values()) / 4 / 24) ** 0.5)
    names = [f"model.model.transformer.layers.{i}.self_attn.to_qkv.weight" for i in range(24)]
    normal = _Normal(20)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors | {n: normal(width, width) for n in names})
    shutil.copyfile(GOLDEN / "audio-vae-tiny/model_config.json", folder / "model_config.json")


def write_turbo_decoder(folder: Path) -> None:
    tensors = {f"module.{name}": tensor for name, tensor in _golden("turbo-decoder-tiny").items()}
    normal = _Normal(30)
    others = {name: normal.like(tensor) for name, tensor in tensors.items()}
    content = {"step": 340000, "state_dict": others, "ema_state_dict": tensors}
    _save_pickle(content, folder / "checkpoint-340000.ckpt")
    config = json.loads((GOLDEN / "turbo-decoder-tiny/config.json").read_text())
    windows = {"first_chunk_size": 7, "step_size": 7}
    _write_json(folder / "TurboV3-Wan22-TinyShallow_7_7.json", config | windows)


def write_video_vae(folder: Path) -> None:
    _save_pickle(_golden("video-vae-tiny"), folder / "Wan2.2_VAE.pth")
    normal = _Normal(40)
    names = [f"blocks.{i}.{part}.weight" for i in range(30) for part in ("self_attn.q", "cross_attn.q")]
    save_shards({name: normal(96, 96) for name in names}, folder, 3, "diffusion_pytorch_model")
    _write_json(folder / "config.json", {"_class_name": "WanModel", "dim": 96, "num_layers": 30})


def save_shards(tensors: Tensors, folder: Path, count: int, stem: str = "model") -> None:
    """In files of about the same size, and an index of them."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(tensor.nbytes for tensor in tensors.values())
    before = accumulate((tensor.nbytes for tensor in tensors.values()), initial=0)
    shards: list[Tensors] = [{} for _ in range(count)]
    for (name, tensor), start in zip(tensors.items(), before, strict=False):
        shards[start * count // total][name] = tensor
    files = [f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for file, shard in zip(files, shards, strict=True):
        mx.save_safetensors(str(folder / file), shard, {"format": "pt"})
    places = {name: file for file, shard in zip(files, shards, strict=True) for name in sorted(shard)}
    index = {"metadata": {"total_size": total}, "weight_map": places}
    _write_json(folder / f"{stem}.safetensors.index.json", index)


class _Normal:
    """Random tensors, each other ones."""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> mx.array:
        return mx.array(self._rng.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5))

    def like(self, tensor: mx.array) -> mx.array:
        return self(*tensor.shape)


def _golden(folder: str) -> Tensors:
    return dict(sorted(layouts.load(GOLDEN / folder / "model.safetensors").items()))


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2))


def _save_pickle(content: dict[str, Any], path: Path) -> None:
    import torch

    def as_torch(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: as_torch(item) for name, item in value.items()}
        return torch.from_numpy(np.array(value)) if isinstance(value, mx.array) else value

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(as_torch(content), path)


def _pickled(path: Path, key: str | None = None) -> dict[str, int]:
    """The bytes of a pickle's tensors, by their names."""
    import torch

    content = torch.load(path, weights_only=True)
    return {name: tensor.nbytes for name, tensor in (content if key is None else content[key]).items()}


def _bytes_in(folder: Path, prefix: str = "") -> int:
    tensors = (layouts.load(file).items() for file in folder.glob("model*.safetensors"))
    return sum(tensor.nbytes for file in tensors for name, tensor in file if name.startswith(prefix))
