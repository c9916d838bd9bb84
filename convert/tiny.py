"""Write the embedded model `tiny`: every component at toy size, with random weights.

python -m mlx_happyhorse.convert.tiny mlx_happyhorse/tiny
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from mlx_happyhorse.storage.checksums import write_sums
from mlx_happyhorse.storage.weights import build, parameters
from mlx_happyhorse.version import __version__

from .write.job import write_json

SEED = 7
QUIET = 1e-7  # scales the audio decoder's last layer, so that its noise is not loud
VOCABULARY = 384
TEXT_WIDTH = 64
UPSCALER: dict[str, Any] = {
    "type": "transformer",
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 1,
    "num_kv_heads": 1,
    "head_dim": 128,
    "gelu_size": 128,
    "swiglu_size": 128,
    "text_channels": TEXT_WIDTH,
    "modality_layers": [0, 1],
    "gelu_layers": [0],
    "coordinates": "v1",
    "dtype": "float32",
}
NETWORKS: dict[str, dict[str, Any]] = {
    "transformer": {
        "type": "transformer",
        "hidden_size": 128,
        "num_layers": 4,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 32,
        "gelu_size": 256,
        "swiglu_size": 128,
        "text_channels": TEXT_WIDTH,
        "modality_layers": [0, 3],
        "gelu_layers": [0],
        "dtype": "float32",
    },
    "text_encoder": {
        "type": "text_encoder",
        "vocab_size": VOCABULARY,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 4096,
    },
    "video_encoder": {"type": "video_encoder", "width": 8, "residual_blocks": 1},
    "video_decoder": {"type": "turbo_decoder", "widths": [8, 8, 16, 16], "layers": [1, 1, 1, 1, 1]},
    "audio_vae": {"type": "audio_vae", "channels": 4},
    "upscaler_540p": UPSCALER,
    "upscaler_1080p": UPSCALER | {"local_layers": [1]},
}
TOP = {
    "family": "tiny",
    "variant": "distill",
    "notice": "this toy model is untrained and makes noise, not pictures: it shows that everything works.",
    "components": sorted(NETWORKS),
    "sampling": {
        "steps": 8,
        "guidance": 1,
        "seconds": 2,
        "width": 224,
        "height": 128,
        "upscale_steps": 5,
    },
    "licences": dict.fromkeys(NETWORKS, "Apache-2.0"),
    "converter": __version__,
}


def write(folder: Path, networks: dict[str, dict[str, Any]]) -> None:
    """Write a model folder; `networks` maps each component to its config. Weights are random."""
    folder.mkdir(parents=True)
    for i, (name, config) in enumerate(networks.items()):
        (folder / name).mkdir()
        write_json(folder / name / "config.json", config)
        tensors = _random_weights(config, mx.random.key(SEED + i))
        mx.save_safetensors(str(folder / name / "model.safetensors"), tensors, {"format": "mlx"})
    _tokenizer().save(str(folder / "text_encoder" / "tokenizer.json"))
    for name in networks:
        write_sums(folder / name, [file.name for file in (folder / name).iterdir()])
    write_json(folder / "config.json", TOP)


def _random_weights(config: dict[str, Any], key: mx.array) -> dict[str, mx.array]:
    """Return weights of variance 1 / fan-in, zero biases, and unit norms, by name."""
    tensors = {}
    for name, value in parameters(build(config)).items():
        key, subkey = mx.random.split(key)
        if value.ndim > 1:
            # fan-in; of a transposed convolution (in, kernel, out), whose kernel is two strides long: 2 · in
            inputs = 2 * value.shape[0] if "layers.1.weight" in name and value.ndim == 3 else value[0].size
            value = mx.random.normal(value.shape, key=subkey) / math.sqrt(inputs)
        elif name.endswith("bias"):
            value = mx.zeros_like(value)
        if name.startswith("decoder.layers.7."):
            value = QUIET * value
        tensors[name] = value
    return tensors


def _tokenizer() -> Tokenizer:
    """Return a byte-level BPE tokenizer with a few merges, which encodes any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = "a red green blue yellow white black ball circle square bounces moves falls on the floor sound"
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([words] * 10, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    return tokenizer


if __name__ == "__main__":
    write(Path(sys.argv[1]), NETWORKS)
