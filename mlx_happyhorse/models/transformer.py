"""The single-stream transformer: video, audio and text tokens in one sequence, laid out in that order.

Layers at both ends hold one `Expert` a modality, those between one for all tokens. The residual stream,
norms, rotation, activations and gates are fp32; linears and attention run in `dtype`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn

from .config import Config


@dataclass
class TransformerConfig(Config):
    hidden_size: int = 5120
    num_layers: int = 40
    num_heads: int = 40
    num_kv_heads: int = 8
    head_dim: int = 128
    gelu_size: int = 20480
    swiglu_size: int = 13696  # 13652 as published, padded with zeros to a multiple of 128
    video_channels: int = 192
    audio_channels: int = 64
    text_channels: int = 3584
    modality_layers: tuple[int, ...] = (0, 1, 2, 3, 36, 37, 38, 39)
    gelu_layers: tuple[int, ...] = (0, 1, 2, 3)
    local_layers: tuple[int, ...] = ()
    local_frames: int = 11  # how far a video token sees to either side in those layers
    coordinates: str = "v2"

    def __post_init__(self) -> None:
        if self.coordinates not in ("v1", "v2"):
            raise ValueError(f"coordinates {self.coordinates} are unknown")

    @property
    def rope_bands(self) -> int:
        return self.head_dim // 8


@dataclass
class Layout:
    """How the sequence is divided: tokens per modality, and the latent frames of the video part."""

    video: int
    audio: int
    text: int
    frames: int
    spans: list[slice] = field(init=False)

    def __post_init__(self) -> None:
        a, b = self.video, self.video + self.audio
        self.spans = [slice(0, a), slice(a, b), slice(b, b + self.text)]


def swiglu7(gate: mx.array, linear: mx.array) -> mx.array:
    gate = mx.minimum(gate.astype(mx.float32), 7)
    linear = mx.clip(linear.astype(mx.float32), -7, 7)
    return gate * mx.sigmoid(1.702 * gate) * (linear + 1)


def gelu7(x: mx.array) -> mx.array:
    x = mx.minimum(x.astype(mx.float32), 7)
    return x * mx.sigmoid(1.702 * x)


def rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Rotates the first 2·bands dimensions of x (tokens, heads, dim), each with the one half a turn on."""
    n = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]
    a, b, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]
    return mx.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def attend(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """Full attention; q (n, heads, dim), k and v (m, kv_heads, dim) → (n, heads, dim)."""
    q, k, v = (x.transpose(1, 0, 2)[None] for x in (q, k, v))
    out = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)
    return out[0].transpose(1, 0, 2)


def attend_locally(q: mx.array, k: mx.array, v: mx.array, layout: Layout, reach: int) -> mx.array:
    """Video tokens see `reach` latent frames to either side and all other tokens; those see everything.

    Without masks: one attention for each run of frames that share a window."""
    per_frame, frames = layout.video // layout.frames, layout.frames
    others = slice(layout.video, None)
    out = []
    for first, last, start, stop in local_windows(frames, reach):
        rows = slice(first * per_frame, last * per_frame)
        window = slice(start * per_frame, stop * per_frame)
        seen = [mx.concatenate([x[window], x[others]]) for x in (k, v)]
        out.append(attend(q[rows], *seen))
        mx.eval(out[-1])  # or the keys and values of all windows would be there at once
    return mx.concatenate([*out, attend(q[others], k, v)])


def local_windows(frames: int, reach: int) -> list[tuple[int, int, int, int]]:
    """(first, last, start, stop): frames [first, last) all see frames [start, stop)."""
    windows: list[tuple[int, int, int, int]] = []
    for i in range(frames):
        bounds = max(i - reach, 0), min(i + reach + 1, frames)
        if windows and windows[-1][2:] == bounds:
            windows[-1] = (windows[-1][0], i + 1, *bounds)
        else:
            windows.append((i, i + 1, *bounds))
    return windows


class Expert(nn.Module):
    """The weights of one layer, for one modality or for all."""

    def __init__(self, config: TransformerConfig, gelu: bool):
        super().__init__()
        hidden, inner = config.hidden_size, config.num_heads * config.head_dim
        kv = config.num_kv_heads * config.head_dim
        self.attention_norm = nn.RMSNorm(hidden, eps=1e-6)
        self.qkv = nn.Linear(hidden, inner + 2 * kv, bias=False)
        self.gate = nn.Linear(hidden, config.num_heads, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=1e-6)
        self.k_norm = nn.RMSNorm(config.head_dim, eps=1e-6)
        self.proj = nn.Linear(inner, hidden, bias=False)
        self.mlp_norm = nn.RMSNorm(hidden, eps=1e-6)
        if gelu:
            self.up = nn.Linear(hidden, config.gelu_size, bias=False)
            self.down = nn.Linear(config.gelu_size, hidden, bias=False)
        else:
            self.gate_up = nn.Linear(hidden, 2 * config.swiglu_size, bias=False)
            self.down = nn.Linear(config.swiglu_size, hidden, bias=False)
        self._heads, self._kv_heads, self._head_dim = (
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
        )

    def project(
        self, x: mx.array, cos: mx.array, sin: mx.array, dtype: mx.Dtype
    ) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """x (n, hidden) → q (n, heads, dim), k and v (n, kv_heads, dim), gate (n, heads, 1) in fp32."""
        h = self.attention_norm(x).astype(dtype)
        heads, kv = self._heads, self._kv_heads
        qkv = self.qkv(h).astype(mx.float32).reshape(len(x), heads + 2 * kv, self._head_dim)
        q, k, v = mx.split(qkv, [heads, heads + kv], axis=1)
        q = rotate(self.q_norm(q), cos, sin)
        k = rotate(self.k_norm(k), cos, sin)
        gate = mx.sigmoid(self.gate(h).astype(mx.float32))[..., None]
        return q.astype(dtype), k.astype(dtype), v.astype(dtype), gate

    def merge(self, heads: mx.array, gate: mx.array) -> mx.array:
        dtype = heads.dtype
        return self.proj((heads * gate).astype(dtype).reshape(len(heads), -1)).astype(mx.float32)

    def mlp(self, x: mx.array, dtype: mx.Dtype) -> mx.array:
        h = self.mlp_norm(x).astype(dtype)
        h = gelu7(self.up(h)) if "up" in self else swiglu7(*mx.split(self.gate_up(h), 2, axis=-1))
        return self.down(h.astype(dtype)).astype(mx.float32)


class Layer(nn.Module):
    def __init__(self, config: TransformerConfig, index: int):
        super().__init__()
        count = 3 if index in config.modality_layers else 1
        self.experts = [Expert(config, gelu=index in config.gelu_layers) for _ in range(count)]
        self._reach = config.local_frames if index in config.local_layers else None

    def __call__(
        self, x: mx.array, cos: mx.array, sin: mx.array, layout: Layout, dtype: mx.Dtype
    ) -> mx.array:
        spans = layout.spans if len(self.experts) > 1 else [slice(None)]
        parts = [e.project(x[s], cos[s], sin[s], dtype) for e, s in zip(self.experts, spans, strict=True)]
        q, k, v, gate = (_join(list(p)) for p in zip(*parts, strict=True))
        reach = self._reach
        heads = attend(q, k, v) if reach is None else attend_locally(q, k, v, layout, reach)
        x = x + _join([e.merge(heads[s], gate[s]) for e, s in zip(self.experts, spans, strict=True)])
        return x + _join([e.mlp(x[s], dtype) for e, s in zip(self.experts, spans, strict=True)])


def _join(parts: list[mx.array]) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)


class Transformer(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.dtype: mx.Dtype = mx.bfloat16
        hidden = config.hidden_size
        self.video_embedder = nn.Linear(config.video_channels, hidden)
        self.audio_embedder = nn.Linear(config.audio_channels, hidden)
        self.text_embedder = nn.Linear(config.text_channels, hidden)
        self.layers = [Layer(config, i) for i in range(config.num_layers)]
        self.video_norm = nn.RMSNorm(hidden, eps=1e-6)
        self.audio_norm = nn.RMSNorm(hidden, eps=1e-6)
        self.video_head = nn.Linear(hidden, config.video_channels, bias=False)
        self.audio_head = nn.Linear(hidden, config.audio_channels, bias=False)

    def __call__(
        self,
        video: mx.array,
        audio: mx.array,
        text: mx.array,
        rope: tuple[mx.array, mx.array],
        frames: int,
    ) -> tuple[mx.array, mx.array]:
        """Velocity of the video tokens (n, 192) and audio tokens (m, 64), in fp32.

        `text` is (k, 3584), `rope` cosines and sines (n + m + k, 3 · bands), `frames` the latent
        frames that the video tokens are made of."""
        layout = Layout(len(video), len(audio), len(text), frames)
        x = mx.concatenate(
            [
                self.video_embedder(video.astype(mx.float32)),
                self.audio_embedder(audio.astype(mx.float32)),
                self.text_embedder(text.astype(mx.float32)),
            ]
        )
        for layer in self.layers:
            x = layer(x, *rope, layout, self.dtype)
            mx.eval(x)  # a longer graph would fill one Metal command buffer with dozens of matmuls
        video_span, audio_span, _ = layout.spans
        return (
            self.video_head(self.video_norm(x[video_span])),
            self.audio_head(self.audio_norm(x[audio_span])),
        )
