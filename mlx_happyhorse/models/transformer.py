"""The single-stream transformer: video, audio and text tokens in one sequence, laid out in that order.

Layers at both ends hold one `Expert` a modality, those between one for all tokens. The residual stream,
norms, rotation, activations and gates are fp32; linears and attention run in `dtype`. Work goes in pieces of
rows, each evaluated before the next, so that no dispatch, nor what it needs for itself, grows with the clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from .blocks import OnBlock, no_block
from .config import Config
from .matmul import UNLIMITED, Work, join, linear, split

Done = Callable[..., None]  # is told that a module, or so many of its children, have been used


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

    def row_flops(self, layer: int) -> float:
        """Of the layer's largest product, for one token."""
        attention = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        mlp = self.gelu_size if layer in self.gelu_layers else 2 * self.swiglu_size
        return 2.0 * self.hidden_size * max(attention, mlp)


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


@dataclass
class Pass:
    """What is the same for all layers of one forward pass; `done` is told when weights were used."""

    layout: Layout
    cos: mx.array
    sin: mx.array
    dtype: mx.Dtype
    work: Work
    done: Done


@partial(mx.compile, shapeless=True)
def swiglu7(gate: mx.array, linear: mx.array) -> mx.array:
    gate = mx.minimum(gate.astype(mx.float32), 7)
    linear = mx.clip(linear.astype(mx.float32), -7, 7)
    return gate * mx.sigmoid(1.702 * gate) * (linear + 1)


@partial(mx.compile, shapeless=True)
def gelu7(x: mx.array) -> mx.array:
    x = mx.minimum(x.astype(mx.float32), 7)
    return x * mx.sigmoid(1.702 * x)


def rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Rotates the first 2·bands dimensions of x (tokens, heads, dim), each with the one half a turn on."""
    n = cos.shape[-1]
    a, b, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]
    return mx.concatenate([*_turn(a, b, cos[:, None], sin[:, None]), rest], axis=-1)


@partial(mx.compile, shapeless=True)
def _turn(a: mx.array, b: mx.array, cos: mx.array, sin: mx.array) -> tuple[mx.array, mx.array]:
    return a * cos - b * sin, b * cos + a * sin


def attend(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """Full attention; q (n, heads, dim), k and v (m, kv_heads, dim) → (n, heads, dim)."""
    q, k, v = (x.transpose(1, 0, 2)[None] for x in (q, k, v))
    out = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)
    return out[0].transpose(1, 0, 2)


def attend_rows(
    q: mx.array, k: mx.array, v: mx.array, first: int, layout: Layout, reach: int | None, work: Work
) -> mx.array:
    """The attention of some queries, `first` being the place of theirs in the sequence, to k and v of all
    of it: a few queries at a time, each lot evaluated. With `reach`, video tokens see so many latent
    frames to either side and all other tokens; those see everything."""
    out = []
    for rows, window in _windows(first, first + len(q), layout, reach):
        seen = (k, v) if window is None else [mx.concatenate([x[window], x[layout.video :]]) for x in (k, v)]
        for part in split(rows, work.most_rows(4 * len(seen[0]) * q.shape[1] * q.shape[2])):
            out.append(attend(q[part.start - first : part.stop - first], *seen))
            mx.eval(out[-1])
    return join(out)


def _windows(
    start: int, stop: int, layout: Layout, reach: int | None
) -> Iterator[tuple[slice, slice | None]]:
    """Rows of the sequence from `start` to `stop`, by the rows of video that they see; None is all."""
    if reach is not None:
        per_frame = layout.video // layout.frames
        for first, last, *window in local_windows(layout.frames, reach):
            rows = slice(max(first * per_frame, start), min(last * per_frame, stop))
            if rows.start < rows.stop:
                yield rows, slice(window[0] * per_frame, window[1] * per_frame)
        start = max(start, layout.video)
    if start < stop:
        yield slice(start, stop), None


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
    """The weights of one layer, for one modality or for all, in two halves used one after the other."""

    ATTENTION = ("attention_norm", "qkv", "gate", "q_norm", "k_norm")
    REST = ("proj", "mlp_norm", "up", "gate_up", "down")

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
        self._heads, self._kv_heads = config.num_heads, config.num_kv_heads
        self._head_dim = config.head_dim

    def project(
        self, x: mx.array, cos: mx.array, sin: mx.array, dtype: mx.Dtype, work: Work = UNLIMITED
    ) -> list[mx.array]:
        """x (n, hidden) → q (n, heads, dim), k and v (n, kv_heads, dim), gate (n, heads, 1) in fp32."""
        h = self.attention_norm(x).astype(dtype)
        heads, kv = self._heads, self._kv_heads
        gate = mx.sigmoid(self.gate(h).astype(mx.float32))[..., None]
        qkv = linear(self.qkv, h, work).reshape(len(x), heads + 2 * kv, self._head_dim)
        mx.eval(gate, qkv)
        q, k, v = mx.split(qkv, [heads, heads + kv], axis=1)
        q = rotate(self.q_norm(q.astype(mx.float32)), cos, sin).astype(dtype)
        mx.eval(q)
        k = rotate(self.k_norm(k.astype(mx.float32)), cos, sin).astype(dtype)
        return [q, k, mx.contiguous(v), gate]

    def merge(self, heads: mx.array, gate: mx.array, work: Work = UNLIMITED) -> mx.array:
        h = (heads * gate).astype(heads.dtype).reshape(len(heads), -1)
        return linear(self.proj, h, work).astype(mx.float32)

    def mlp(self, x: mx.array, dtype: mx.Dtype, work: Work = UNLIMITED) -> mx.array:
        h = self.mlp_norm(x).astype(dtype)
        if "up" in self:
            h = gelu7(linear(self.up, h, work))
        else:
            h = swiglu7(*mx.split(linear(self.gate_up, h, work), 2, axis=-1))
        h = h.astype(dtype)
        mx.eval(h)  # one dequantized matrix at a time
        return linear(self.down, h, work).astype(mx.float32)


class Layer(nn.Module):
    def __init__(self, config: TransformerConfig, index: int):
        super().__init__()
        count = 3 if index in config.modality_layers else 1
        self.experts = [Expert(config, gelu=index in config.gelu_layers) for _ in range(count)]
        self._reach = config.local_frames if index in config.local_layers else None
        self._row_flops = config.row_flops(index)

    def __call__(self, x: mx.array, now: Pass) -> None:
        """Replaces x (n, hidden) in fp32, piece by piece."""
        spans = now.layout.spans if len(self.experts) > 1 else [slice(0, len(x))]
        most = now.work.most_rows(self._row_flops)
        queries, keys, values = self._project(x, spans, most, now)
        for expert, span in zip(self.experts, spans, strict=True):
            for rows in split(span, most):
                q, gate = queries.pop(0)
                heads = attend_rows(q, keys, values, rows.start, now.layout, self._reach, now.work)
                y = x[rows] + expert.merge(heads, gate, now.work)
                mx.eval(y)
                del q, gate, heads
                x[rows] = y + expert.mlp(y, now.dtype, now.work)
                mx.eval(x)
            now.done(expert, Expert.REST)

    def _project(
        self, x: mx.array, spans: list[slice], most: int, now: Pass
    ) -> tuple[list[tuple[mx.array, mx.array]], mx.array, mx.array]:
        """Queries with their gates, piece by piece, and all keys and values."""
        queries, keys, values = [], [], []
        for expert, span in zip(self.experts, spans, strict=True):
            for rows in split(span, most):
                q, k, v, gate = expert.project(x[rows], now.cos[rows], now.sin[rows], now.dtype, now.work)
                mx.eval(q, k, v, gate)
                queries.append((q, gate))
                keys.append(k)
                values.append(v)
            now.done(expert, Expert.ATTENTION)
        return queries, join(keys), join(values)


def keep(module: nn.Module, children: tuple[str, ...] = ()) -> None:
    """What is done with weights after their use, where all of them stay in memory."""


def stay() -> None:
    """What is done with such weights before a pass that was broken off is repeated."""


class Transformer(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.dtype: mx.Dtype = mx.bfloat16
        self.work = UNLIMITED
        self.done: Done = keep
        self.restart: Callable[[], None] = stay
        hidden = config.hidden_size
        self.video_embedder = nn.Linear(config.video_channels, hidden)
        self.audio_embedder = nn.Linear(config.audio_channels, hidden)
        self.text_embedder = nn.Linear(config.text_channels, hidden)
        self.layers = [Layer(config, i) for i in range(config.num_layers)]
        self.video_norm = nn.RMSNorm(hidden, eps=1e-6)
        self.audio_norm = nn.RMSNorm(hidden, eps=1e-6)
        self.video_head = nn.Linear(hidden, config.video_channels, bias=False)
        self.audio_head = nn.Linear(hidden, config.audio_channels, bias=False)

    def units(self) -> Iterator[tuple[str, nn.Module, tuple[str, ...]]]:
        """What is used at a time and done with together, in that order: path, module, its children."""
        for i, layer in enumerate(self.layers):
            for children in (Expert.ATTENTION, Expert.REST):
                for j, expert in enumerate(layer.experts):
                    yield f"layers.{i}.experts.{j}", expert, children

    def __call__(
        self,
        video: mx.array,
        audio: mx.array,
        text: mx.array,
        rope: tuple[mx.array, mx.array],
        frames: int,
        on_block: OnBlock = no_block,
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
        mx.eval(x)
        now = Pass(layout, *rope, self.dtype, self.work, self.done)
        for index, layer in enumerate(self.layers):
            layer(x, now)
            on_block(index + 1, len(self.layers))
        video_span, audio_span, _ = layout.spans
        made = (
            self.video_head(self.video_norm(x[video_span])),
            self.audio_head(self.audio_norm(x[audio_span])),
        )
        mx.eval(made)  # or the whole stream would stay for it
        return made
