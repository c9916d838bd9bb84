"""The single-stream transformer: video, audio and text tokens in one sequence, in that order.

Layers at both ends hold one `Expert` per modality, those between one for all tokens. The residual stream,
norms, rotation, activations and gates are fp32; linear layers and attention run in `dtype`. Rows are computed
in chunks, each evaluated before the next, so that neither a dispatch nor its temporary memory grows with the
clip.
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

# Called with a module, and the names of some of its children, when a pass needs their weights no longer.
Offload = Callable[..., None]


@dataclass
class TransformerConfig(Config):
    """The transformer's dimensions, by default those of the published models."""

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
    local_frames: int = 11  # latent frames to either side that a video token sees in those layers
    coordinates: str = "v2"  # or "v1", see `diffusion.sequence.coordinates`

    def __post_init__(self) -> None:
        if self.coordinates not in ("v1", "v2"):
            raise ValueError(f"coordinates {self.coordinates!r} are unknown")

    @property
    def rope_bands(self) -> int:
        """Return the number of frequencies per axis: time, height and width rotate 3/4 of a head."""
        return self.head_dim // 8

    def row_flops(self, layer: int) -> float:
        """Return the operations of the layer's largest matrix product for one token."""
        attention = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        mlp = self.gelu_size if layer in self.gelu_layers else 2 * self.swiglu_size
        return 2.0 * self.hidden_size * max(attention, mlp)


@dataclass
class Layout:
    """The parts of the sequence: tokens per modality, and the latent frames of the video part."""

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
    """The context of one forward pass, which all its layers share."""

    layout: Layout
    cos: mx.array
    sin: mx.array
    dtype: mx.Dtype
    work: Work
    offload: Offload


@partial(mx.compile, shapeless=True)
def swiglu7(gate: mx.array, linear: mx.array) -> mx.array:
    """SwiGLU with clipped inputs, as in the reference; 1.702 makes x·σ(1.702x) approximate GELU."""
    gate = mx.minimum(gate.astype(mx.float32), 7)
    linear = mx.clip(linear.astype(mx.float32), -7, 7)
    return gate * mx.sigmoid(1.702 * gate) * (linear + 1)


@partial(mx.compile, shapeless=True)
def gelu7(x: mx.array) -> mx.array:
    """Approximate GELU of clipped inputs, as in the reference."""
    x = mx.minimum(x.astype(mx.float32), 7)
    return x * mx.sigmoid(1.702 * x)


def rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Rotate the first 2n dimensions of x (tokens, heads, dim), dimension i with dimension i + n, by angles
    given as cosines and sines (tokens, n)."""
    n = cos.shape[-1]
    a, b, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]
    return mx.concatenate([*_rotate(a, b, cos[:, None], sin[:, None]), rest], axis=-1)


@partial(mx.compile, shapeless=True)
def _rotate(a: mx.array, b: mx.array, cos: mx.array, sin: mx.array) -> tuple[mx.array, mx.array]:
    return a * cos - b * sin, b * cos + a * sin


def attend(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """Compute full attention: q (n, heads, dim), k and v (m, kv_heads, dim) → (n, heads, dim)."""
    q, k, v = (x.transpose(1, 0, 2)[None] for x in (q, k, v))
    out = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)
    return out[0].transpose(1, 0, 2)


def attend_rows(
    q: mx.array, k: mx.array, v: mx.array, first: int, layout: Layout, reach: int | None, work: Work
) -> mx.array:
    """Compute the attention of consecutive queries, which start at row `first` of the sequence, to the keys
    and values of all rows, in chunks.

    With `reach`, a video token sees only so many latent frames to either side, beside all audio and text
    tokens; those see everything."""
    out = []
    for rows, window in _windows(first, first + len(q), layout, reach):
        seen = (k, v) if window is None else [mx.concatenate([x[window], x[layout.video :]]) for x in (k, v)]
        # Scores and weighted sum are two products of two operations each, per key and dimension.
        for chunk in split(rows, work.max_rows(4 * len(seen[0]) * q.shape[1] * q.shape[2])):
            out.append(attend(q[chunk.start - first : chunk.stop - first], *seen))
            mx.eval(out[-1])
    return join(out)


def _windows(
    start: int, stop: int, layout: Layout, reach: int | None
) -> Iterator[tuple[slice, slice | None]]:
    """Yield slices of the rows `start` to `stop`, each with the rows of video that it sees; None is all."""
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
    """Group frames that see the same frames: (first, last, start, stop) means that [first, last) see
    [start, stop)."""
    windows: list[tuple[int, int, int, int]] = []
    for i in range(frames):
        bounds = max(i - reach, 0), min(i + reach + 1, frames)
        if windows and windows[-1][2:] == bounds:
            windows[-1] = (windows[-1][0], i + 1, *bounds)
        else:
            windows.append((i, i + 1, *bounds))
    return windows


class Expert(nn.Module):
    """The weights of one layer, for one modality or for all. They are used, and streamed, in two halves:
    before and after attention."""

    BEFORE_ATTENTION = ("attention_norm", "qkv", "gate", "q_norm", "k_norm")
    AFTER_ATTENTION = ("proj", "mlp_norm", "up", "gate_up", "down")

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
        """Compute queries, keys, values and gates of x (n, hidden) in fp32.

        Return q (n, heads, dim), k and v (n, kv_heads, dim) in `dtype`, and gate (n, heads, 1) in fp32."""
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
        """Gate the attention's result (n, heads, dim) and project it to (n, hidden) in fp32."""
        h = (heads * gate).astype(heads.dtype).reshape(len(heads), -1)
        return linear(self.proj, h, work).astype(mx.float32)

    def mlp(self, x: mx.array, dtype: mx.Dtype, work: Work = UNLIMITED) -> mx.array:
        """Apply the norm and the MLP to x (n, hidden), in fp32."""
        h = self.mlp_norm(x).astype(dtype)
        if "up" in self:
            h = gelu7(linear(self.up, h, work))
        else:
            h = swiglu7(*mx.split(linear(self.gate_up, h, work), 2, axis=-1))
        h = h.astype(dtype)
        mx.eval(h)  # only one dequantized matrix is alive at a time
        return linear(self.down, h, work).astype(mx.float32)


class Layer(nn.Module):
    """Gated attention over all tokens, then an MLP; each token uses the weights of its expert."""

    def __init__(self, config: TransformerConfig, index: int):
        super().__init__()
        count = 3 if index in config.modality_layers else 1
        self.experts = [Expert(config, gelu=index in config.gelu_layers) for _ in range(count)]
        self._reach = config.local_frames if index in config.local_layers else None
        self._row_flops = config.row_flops(index)

    def __call__(self, x: mx.array, ctx: Pass) -> None:
        """Replace x (n, hidden), fp32, by the layer's result, chunk by chunk."""
        spans = ctx.layout.spans if len(self.experts) > 1 else [slice(0, len(x))]
        max_rows = ctx.work.max_rows(self._row_flops)
        queries, keys, values = self._project(x, spans, max_rows, ctx)
        for expert, span in zip(self.experts, spans, strict=True):
            for rows in split(span, max_rows):
                # Attention, its gate and projection, added to the residual stream.
                q, gate = queries.pop(0)
                heads = attend_rows(q, keys, values, rows.start, ctx.layout, self._reach, ctx.work)
                y = x[rows] + expert.merge(heads, gate, ctx.work)
                mx.eval(y)
                del q, gate, heads  # before the MLP takes its temporary memory
                # The MLP, added to that.
                x[rows] = y + expert.mlp(y, ctx.dtype, ctx.work)
                mx.eval(x)
            ctx.offload(expert, Expert.AFTER_ATTENTION)

    def _project(
        self, x: mx.array, spans: list[slice], max_rows: int, ctx: Pass
    ) -> tuple[list[tuple[mx.array, mx.array]], mx.array, mx.array]:
        """Return the queries with their gates, by chunk, and all keys and values."""
        queries, keys, values = [], [], []
        for expert, span in zip(self.experts, spans, strict=True):
            for rows in split(span, max_rows):
                q, k, v, gate = expert.project(x[rows], ctx.cos[rows], ctx.sin[rows], ctx.dtype, ctx.work)
                mx.eval(q, k, v, gate)
                queries.append((q, gate))
                keys.append(k)
                values.append(v)
            ctx.offload(expert, Expert.BEFORE_ATTENTION)
        return queries, join(keys), join(values)


def keep_resident(module: nn.Module, children: tuple[str, ...] = ()) -> None:
    """Offload nothing: all weights stay in memory."""


def no_restart() -> None:
    """Do nothing before an interrupted pass is repeated, as all weights are in memory."""


class Transformer(nn.Module):
    """Network for the velocity of video and audio tokens. `dtype` and `work` apply to its layers; weight
    streaming sets `offload` and `restart`."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.dtype: mx.Dtype = mx.bfloat16
        self.work = UNLIMITED
        self.offload: Offload = keep_resident
        self.restart: Callable[[], None] = no_restart
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
        """Yield the weights that are loaded and offloaded together, in the order of their use: the path of a
        module, the module, and the names of the children that are meant."""
        for i, layer in enumerate(self.layers):
            for children in (Expert.BEFORE_ATTENTION, Expert.AFTER_ATTENTION):
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
        """Return the velocity of the video tokens (n, 192) and audio tokens (m, 64), in fp32.

        `text` is (k, 3584), `rope` cosines and sines (n + m + k, 3 · bands), `frames` the number of latent
        frames of the video tokens."""
        # Embed each modality, and join the tokens into one sequence.
        layout = Layout(len(video), len(audio), len(text), frames)
        x = mx.concatenate(
            [
                self.video_embedder(video.astype(mx.float32)),
                self.audio_embedder(audio.astype(mx.float32)),
                self.text_embedder(text.astype(mx.float32)),
            ]
        )
        mx.eval(x)
        # Run all layers, each of which replaces x in place.
        ctx = Pass(layout, *rope, self.dtype, self.work, self.offload)
        for index, layer in enumerate(self.layers):
            layer(x, ctx)
            on_block(index + 1, len(self.layers))
        # Project the tokens of video and audio to velocities.
        video_span, audio_span, _ = layout.spans
        velocity = (
            self.video_head(self.video_norm(x[video_span])),
            self.audio_head(self.audio_norm(x[audio_span])),
        )
        mx.eval(velocity)  # a lazy result would keep all of x in memory
        return velocity
