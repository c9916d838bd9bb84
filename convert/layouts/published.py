"""Map published names and layouts to ours, one function per network. Dimensions come from tensor shapes.

Each function takes a `Checkpoint` and returns its components: a config and lazy tensors. All mapping of
tensor names happens here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_happyhorse.diffusion.sequence import ROPE_BASE
from mlx_happyhorse.errors import ModelError
from mlx_happyhorse.models.audio_vae import AudioVAEConfig
from mlx_happyhorse.models.text_encoder import TextEncoderConfig
from mlx_happyhorse.models.transformer import TransformerConfig
from mlx_happyhorse.models.turbo_decoder import TurboDecoderConfig
from mlx_happyhorse.models.video_vae import VideoVAEConfig

from ..read.checkpoint import Checkpoint
from ..read.tensors import Tensor, Transform

ALIGNMENT = 128  # MLP widths are padded to a multiple of the largest quantization group


class Component(NamedTuple):
    """A network's config and its tensors, with our names and layouts."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]


def components(ckpt: Checkpoint) -> dict[str, Component]:
    """Return a checkpoint's components by name, {} if it is unknown. Raise ModelError if it is damaged.

    A common prefix of the tensor names, `model.diffusion_model.` for example, is stripped."""
    for marker, read in (
        ("adapter.video_embedder.weight", transformer),
        ("encoder.embed_tokens.weight", text_encoder),
        ("pretransform.model.encoder.layers.0.weight_v", audio_vae),
        ("encoder.downsamples.0.downsamples.0.residual.0.gamma", video_vae),
        ("up_blocks.0.resnets.0.conv1.conv.weight", turbo_decoder),
    ):
        marked = [name for name in ckpt.names if f".{name}".endswith(f".{marker}")]
        if len(marked) > 1:
            raise ModelError(
                f"{ckpt.label} holds two networks of the same kind: {' and '.join(sorted(marked)[:2])}."
            )
        if marked:
            return _read_strictly(read, ckpt, marked[0].removesuffix(marker))
    return {}


def _read_strictly(
    read: Callable[[Checkpoint], dict[str, Component]], ckpt: Checkpoint, prefix: str
) -> dict[str, Component]:
    """Return the components of the tensors under `prefix`. Raise ModelError if any tensor is left.

    Tensors without the prefix are ignored, except where a file should hold this network alone."""
    others = [name for name in ckpt.names if not name.startswith(prefix)]
    if others and read in (transformer, video_vae):
        raise ModelError(f"{ckpt.label} has an unknown tensor {min(others)}.")
    ckpt.select(prefix)
    found = read(ckpt)
    if ckpt.names:
        raise ModelError(f"{ckpt.label} has an unknown tensor {min(ckpt.names)}.")
    return found


def transformer(ckpt: Checkpoint) -> dict[str, Component]:
    """Map MagiHuman's diffusion transformer, base, distill or upscaler."""
    settings = ckpt.settings("local_attn_layers")
    hidden, video_channels = ckpt.shape("adapter.video_embedder.weight")
    layers = ckpt.count("block.layers.{}.")
    blocks = [f"block.layers.{i}." for i in range(layers)]
    experts = [ckpt.shape(b + "attention.pre_norm.weight")[0] // hidden for b in blocks]
    gelu = [_is_gelu(ckpt, b, e) for b, e in zip(blocks, experts, strict=True)]
    dim = ckpt.shape(blocks[0] + "attention.q_norm.weight")[0] // experts[0]
    heads = ckpt.shape(blocks[0] + "attention.linear_proj.weight")[1] // dim
    # its rows: query heads, key heads, value heads, and one gate per query head
    rows = ckpt.shape(blocks[0] + "attention.linear_qkv.weight")[0] // experts[0]
    widths = [ckpt.shape(b + "mlp.down_proj.weight")[1] for b in blocks]
    config = TransformerConfig(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=(rows - heads - heads * dim) // (2 * dim),
        head_dim=dim,
        gelu_size=next((_aligned(w) for w, g in zip(widths, gelu, strict=True) if g), 0),
        swiglu_size=next((_aligned(w) for w, g in zip(widths, gelu, strict=True) if not g), 0),
        video_channels=video_channels,
        audio_channels=ckpt.shape("adapter.audio_embedder.weight")[1],
        text_channels=ckpt.shape("adapter.text_embedder.weight")[1],
        modality_layers=tuple(i for i, e in enumerate(experts) if e > 1),
        gelu_layers=tuple(i for i, g in enumerate(gelu) if g),
        **_given(
            settings,
            local_layers="local_attn_layers",
            local_frames="frame_receptive_field",
            coordinates="coords",
        ),
    )
    _check_bands(ckpt, config)
    out: dict[str, Tensor] = {}
    for name in ("video", "audio", "text"):
        for part in ("weight", "bias"):
            out[f"{name}_embedder.{part}"] = ckpt.take(f"adapter.{name}_embedder.{part}").map(_fp32)
    for name in ("video", "audio"):
        out[f"{name}_norm.weight"] = ckpt.take(f"final_norm_{name}.weight").map(_one_plus)
        out[f"{name}_head.weight"] = ckpt.take(f"final_linear_{name}.weight").map(_fp32)
    for i, block in enumerate(blocks):
        layer = _layer(ckpt, block, gelu[i], experts[i], heads)
        out |= {f"layers.{i}.experts.{name}": tensor for name, tensor in layer.items()}
    return {"transformer": Component({"type": "transformer", **config.to_dict()}, out)}


def _given(settings: dict[str, Any], **names: str) -> dict[str, Any]:
    """Return the settings that are present, renamed; `names` maps our name to theirs."""
    values = {ours: settings[theirs] for ours, theirs in names.items() if theirs in settings}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _is_gelu(ckpt: Checkpoint, block: str, experts: int) -> bool:
    up = ckpt.shape(block + "mlp.up_gate_proj.weight")[0] // experts
    return up == ckpt.shape(block + "mlp.down_proj.weight")[1]


def _check_bands(ckpt: Checkpoint, config: TransformerConfig) -> None:
    """Raise ModelError if the RoPE frequencies are not the ones that we recompute in fp32."""
    bands = ckpt.take("adapter.rope.bands")
    expected = ROPE_BASE ** (-mx.arange(config.rope_bands) / config.rope_bands)
    if bands.shape != expected.shape or not mx.allclose(_fp32(bands.materialise()), expected, rtol=1e-2):
        raise ModelError(f"{ckpt.label} has unknown RoPE frequencies (adapter.rope.bands).")


def _layer(ckpt: Checkpoint, block: str, gelu: bool, experts: int, heads: int) -> dict[str, Tensor]:
    """Return one layer's tensors, named `expert index.our name.weight`."""
    mapping: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
        "attention.pre_norm": {"attention_norm": lambda t: t.map(_one_plus)},
        "attention.linear_qkv": {
            "qkv": lambda t: t.rows(0, len(t) - heads),
            "gate": lambda t: t.rows(len(t) - heads, len(t)),
        },
        "attention.q_norm": {"q_norm": lambda t: t.map(_one_plus)},
        "attention.k_norm": {"k_norm": lambda t: t.map(_one_plus)},
        "attention.linear_proj": {"proj": lambda t: t},
        "mlp.pre_norm": {"mlp_norm": lambda t: t.map(_one_plus)},
        "mlp.up_gate_proj": {"up": _padded} if gelu else {"gate_up": _gate_then_up},
        "mlp.down_proj": {"down": lambda t: t.map(_pad_columns)},
    }
    out: dict[str, Tensor] = {}
    for theirs, ours_of in mapping.items():
        name = f"{block}{theirs}.weight"
        tensor = ckpt.take(name)
        if len(tensor) % experts:
            raise ModelError(f"tensor {name} {tensor.shape} is not divisible by {experts} experts.")
        for i, expert in enumerate(tensor.split(experts)):
            for ours, change in ours_of.items():
                out[f"{i}.{ours}.weight"] = change(expert)
    return out


def _gate_then_up(weight: Tensor) -> Tensor:
    """Deinterleave rows gate, up, gate, up, … into all of gate, then all of up, each zero-padded."""
    return weight.in_blocks(2, _aligned(len(weight) // 2))


def _padded(weight: Tensor) -> Tensor:
    return weight.in_blocks(1, _aligned(len(weight)))


def _aligned(width: int) -> int:
    return -(-width // ALIGNMENT) * ALIGNMENT


def _pad_columns(rows: mx.array) -> mx.array:
    return mx.pad(rows, [(0, 0), (0, _aligned(rows.shape[1]) - rows.shape[1])])


def _one_plus(weight: mx.array) -> mx.array:
    """Fold the 1 of Gemma's and MagiHuman's norms, which multiply by 1 + weight, into the weight."""
    return 1 + _fp32(weight)


def _fp32(tensor: mx.array) -> mx.array:
    return tensor.astype(mx.float32)


def text_encoder(ckpt: Checkpoint) -> dict[str, Component]:
    """Map the encoder of T5-Gemma; its decoder is ignored."""
    ckpt.select("encoder.")
    settings = ckpt.settings("encoder").get("encoder", {})
    defaults = TextEncoderConfig()
    dim = settings.get("head_dim", defaults.head_dim)
    vocab, hidden = ckpt.shape("embed_tokens.weight")
    layers = ckpt.count("layers.{}.")
    config = TextEncoderConfig.from_dict(
        settings
        | {
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": ckpt.shape("layers.0.mlp.up_proj.weight")[0],
            "num_hidden_layers": layers,
            "num_attention_heads": ckpt.shape("layers.0.self_attn.q_proj.weight")[0] // dim,
            "num_key_value_heads": ckpt.shape("layers.0.self_attn.k_proj.weight")[0] // dim,
        }
    )
    tensors = {
        name: t.map(_one_plus) if name.endswith("norm.weight") else t
        for name, t in ((name, ckpt.take(name)) for name in sorted(ckpt.names))
    }
    return {"text_encoder": Component({"type": "text_encoder", **config.to_dict()}, tensors)}


def video_vae(ckpt: Checkpoint) -> dict[str, Component]:
    """Map the Wan 2.2 VAE to an encoder and a decoder."""
    configs = {half: _video_config(ckpt, half).to_dict() for half in ("encoder", "decoder")}
    encoder = _video_half(ckpt, "encoder.", "down") | _pointwise(ckpt, "conv1.", "to_moments.")
    decoder = _video_half(ckpt, "decoder.", "up") | _pointwise(ckpt, "conv2.", "from_latent.")
    return {
        "video_encoder": Component({"type": "video_encoder", **configs["encoder"]}, encoder),
        "video_decoder": Component({"type": "video_decoder", **configs["decoder"]}, decoder),
    }


def _video_config(ckpt: Checkpoint, half: str) -> VideoVAEConfig:
    stage = {"encoder": "downsamples", "decoder": "upsamples"}[half]
    levels = [f"{half}.{stage}.{i}.{stage}." for i in range(ckpt.count(f"{half}.{stage}.{{}}."))]
    blocks = sum(f"{levels[0]}{i}.residual.0.gamma" in ckpt for i in range(ckpt.count(levels[0] + "{}.")))
    outputs = [ckpt.shape(level + "0.residual.3.gamma")[0] for level in levels]
    temporal = [f"{level}{blocks}.time_conv.weight" in ckpt for level in levels[:-1]]
    width = ckpt.shape("encoder.conv1.weight")[0]
    if half == "decoder":  # its config lists levels like the encoder's, from pixels to latents
        outputs, temporal, blocks, width = outputs[::-1], temporal[::-1], blocks - 1, outputs[-1]
    return VideoVAEConfig(
        width=width,
        latent_channels=ckpt.shape("conv2.weight")[0],
        multipliers=tuple(o // width for o in outputs),
        residual_blocks=blocks,
        temporal=tuple(temporal),
    )


def _pointwise(ckpt: Checkpoint, theirs: str, ours: str) -> dict[str, Tensor]:
    return {ours + part: ckpt.take(theirs + part).map(_squeeze) for part in ("weight", "bias")}


def _video_half(ckpt: Checkpoint, half: str, direction: str) -> dict[str, Tensor]:
    return {
        _video_name(name.removeprefix(half), direction): ckpt.take(name).map(_video_transform(name))
        for name in sorted(ckpt.names)
        if name.startswith(half)
    }


def _video_name(name: str, direction: str) -> str:
    level = rf"{direction}samples\.(\d+)\.{direction}samples"
    for pattern, replacement in (
        (r"^conv1\.", "conv_in."),
        (r"^head\.0\.", "norm_out."),
        (r"^head\.2\.", "conv_out."),
        (r"^middle\.0\.", "middle.before."),
        (r"^middle\.1\.", "middle.attention."),
        (r"^middle\.2\.", "middle.after."),
        (rf"^{level}\.\d+\.(resample|time_conv)\.", rf"{direction}.\1.resample.\2."),
        (rf"^{level}\.(\d+)\.", rf"{direction}.\1.blocks.\2."),
        (r"resample\.resample\.1\.", "resample.conv."),
        (r"residual\.0\.", "norm1."),
        (r"residual\.2\.", "conv1."),
        (r"residual\.3\.", "norm2."),
        (r"residual\.6\.", "conv2."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def _video_transform(name: str) -> Transform:
    if name.endswith("gamma"):
        return lambda rows: _fp32(rows).reshape(len(rows))
    return _squeeze if name.endswith(("to_qkv.weight", "proj.weight")) else _channels_last


def _squeeze(tensor: mx.array) -> mx.array:
    """Return a pointwise convolution's weight as a linear layer's, (out, in); biases are unchanged."""
    return _fp32(tensor).reshape(tensor.shape[:2])


def _channels_last(tensor: mx.array) -> mx.array:
    """Transpose (out, in, *kernel) to (out, *kernel, in); biases are unchanged."""
    return mx.moveaxis(_fp32(tensor), 1, -1) if tensor.ndim > 1 else _fp32(tensor)


def turbo_decoder(ckpt: Checkpoint) -> dict[str, Component]:
    """Map MagiHuman's Turbo decoder."""
    settings = ckpt.settings("first_chunk_size")
    if ckpt.shape("conv_out.conv.weight")[0] != 12:
        raise ModelError(f"{ckpt.label}: only Turbo decoders with a final 2×2 unpatchify are supported.")
    levels = ckpt.count("up_blocks.{}.")
    blocks = [f"up_blocks.{i}." for i in reversed(range(levels))]
    config = TurboDecoderConfig(
        latent_channels=ckpt.shape("conv_in.conv.weight")[1],
        widths=tuple(ckpt.shape(b + "resnets.0.conv2.conv.weight")[0] for b in blocks),
        layers=(*(ckpt.count(b + "resnets.{}.") for b in blocks), ckpt.count("mid_block.resnets.{}.")),
        upsample=tuple(b + "upsamplers.0.resample.1.weight" in ckpt for b in blocks),
        spatial_only=tuple(
            b + "upsamplers.0.resample.1.weight" in ckpt
            and b + "upsamplers.0.time_conv.conv.weight" not in ckpt
            for b in blocks
        ),
        **_given(
            settings,
            norm_eps="resnet_norm_eps",
            first_window="first_chunk_size",
            window="step_size",
        ),
    )
    tensors = {_turbo_name(name): ckpt.take(name).map(_channels_last) for name in sorted(ckpt.names)}
    return {"video_decoder": Component({"type": "turbo_decoder", **config.to_dict()}, tensors)}


def _turbo_name(name: str) -> str:
    name = name.replace(".conv.", ".").replace("mid_block.resnets.", "mid_block.")
    return name.replace("upsamplers.0.resample.1.", "upsampler.conv.").replace("upsamplers.0.", "upsampler.")


def audio_vae(ckpt: Checkpoint) -> dict[str, Component]:
    """Map the autoencoder of Stable Audio; its diffusion model is ignored."""
    ckpt.select("pretransform.model.")
    channels, audio_channels, _ = ckpt.shape("encoder.layers.0.weight_v")
    levels = ckpt.count("encoder.layers.{}.") - 3
    downs = [ckpt.shape(f"encoder.layers.{i + 1}.layers.4.weight_v") for i in range(levels)]
    config = AudioVAEConfig(
        channels=channels,
        c_mults=tuple(out // channels for out, _, _ in downs),
        strides=tuple(kernel // 2 for _, _, kernel in downs),
        latent_dim=ckpt.shape("decoder.layers.0.weight_v")[1],
        audio_channels=audio_channels,
    )
    tensors: dict[str, Tensor] = {}
    for name in sorted(ckpt.names):
        if name.endswith("weight_v"):
            # (out, in, kernel), or (in, out, kernel) if transposed: the second axis moves to the end
            base = name.removesuffix("_v")
            v_and_g = ckpt.take_together(name, base + "_g")
            tensors[base] = Tensor.of(*v_and_g, transform=_fold_weight_norm).map(_channels_last)
        elif not name.endswith("weight_g"):
            tensors[name] = ckpt.take(name).map(_fp32)
    return {"audio_vae": Component({"type": "audio_vae", **config.to_dict()}, tensors)}


def _fold_weight_norm(v: mx.array, g: mx.array) -> mx.array:
    """Return the weight g · v / |v| of a weight-normed convolution, (a, b, kernel)."""
    v, g = _fp32(v), _fp32(g)
    return v * (g / mx.sqrt(mx.square(v).sum(axis=(1, 2), keepdims=True)))
