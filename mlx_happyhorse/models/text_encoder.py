"""T5-Gemma's encoder: Gemma-2 blocks with bidirectional attention.

The published config asks for soft-capped attention logits, but MagiHuman was trained on features without the
cap (PyTorch's fused attention ignores it), so there is none here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .blocks import OnBlock, no_block
from .config import Config
from .matmul import UNLIMITED, Work, linear
from .transformer import Offload, keep_resident, no_restart


@dataclass
class TextEncoderConfig(Config):
    """The encoder's dimensions, by default those of T5Gemma-9B."""

    vocab_size: int = 256000
    hidden_size: int = 3584
    intermediate_size: int = 14336
    num_hidden_layers: int = 42
    num_attention_heads: int = 16
    num_key_value_heads: int = 8
    head_dim: int = 256
    query_pre_attn_scalar: float = 256
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    sliding_window: int = 4096
    layer_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.layer_types:
            kinds = ("sliding_attention", "full_attention")
            self.layer_types = tuple(kinds[i % 2] for i in range(self.num_hidden_layers))


class Norm(nn.RMSNorm):
    """RMS norm with fp32 weights whose result has the dtype of the input."""

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x.astype(mx.float32)).astype(x.dtype)


class Attention(nn.Module):
    """Self-attention with rotary positions, over all tokens or within `window` tokens to either side."""

    def __init__(self, config: TextEncoderConfig, window: int | None):
        super().__init__()
        hidden, dim = config.hidden_size, config.head_dim
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._dim, self._window = dim, window
        self._scale = config.query_pre_attn_scalar**-0.5
        self.q_proj = nn.Linear(hidden, self._heads * dim, bias=False)
        self.k_proj = nn.Linear(hidden, self._kv_heads * dim, bias=False)
        self.v_proj = nn.Linear(hidden, self._kv_heads * dim, bias=False)
        self.o_proj = nn.Linear(self._heads * dim, hidden, bias=False)
        self.rope = nn.RoPE(dim, base=config.rope_theta)

    def __call__(self, x: mx.array, work: Work) -> mx.array:
        n = len(x)
        # Queries, keys and values, rotated by position.
        q = self.rope(self._split(linear(self.q_proj, x, work), self._heads))
        k = self.rope(self._split(linear(self.k_proj, x, work), self._kv_heads))
        v = self._split(linear(self.v_proj, x, work), self._kv_heads)
        # Attention, masked only where the prompt is longer than the window.
        mask = None
        if self._window is not None and n > self._window:
            i = mx.arange(n)
            mask = mx.abs(i[:, None] - i[None]) < self._window
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=self._scale, mask=mask)
        return linear(self.o_proj, out[0].transpose(1, 0, 2).reshape(n, -1), work)

    def _split(self, x: mx.array, heads: int) -> mx.array:
        return x.reshape(len(x), heads, self._dim).transpose(1, 0, 2)[None]


class MLP(nn.Module):
    """The gated MLP of Gemma 2."""

    def __init__(self, hidden: int, intermediate: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def __call__(self, x: mx.array, work: Work) -> mx.array:
        h = nn.gelu_approx(linear(self.gate_proj, x, work))
        mx.eval(h)  # only one dequantized matrix is alive at a time
        h = h * linear(self.up_proj, x, work)
        mx.eval(h)
        return linear(self.down_proj, h, work)


class Block(nn.Module):
    """Attention and MLP, each with a norm before and after it."""

    def __init__(self, config: TextEncoderConfig, kind: str):
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        window = config.sliding_window if kind == "sliding_attention" else None
        self.self_attn = Attention(config, window)
        self.mlp = MLP(hidden, config.intermediate_size)
        self.pre_self_attn_layernorm = Norm(hidden, eps)
        self.post_self_attn_layernorm = Norm(hidden, eps)
        self.pre_feedforward_layernorm = Norm(hidden, eps)
        self.post_feedforward_layernorm = Norm(hidden, eps)

    def __call__(self, x: mx.array, work: Work) -> mx.array:
        x = x + self.post_self_attn_layernorm(self.self_attn(self.pre_self_attn_layernorm(x), work))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x), work))


class TextEncoder(nn.Module):
    """Network for the features of prompts. Weight streaming sets `offload` and `restart`."""

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.config = config
        self.work = UNLIMITED
        self.offload: Offload = keep_resident
        self.restart: Callable[[], None] = no_restart
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [Block(config, kind) for kind in config.layer_types]
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)

    def units(self) -> Iterator[tuple[str, nn.Module, tuple[str, ...]]]:
        """Yield the weights that are loaded and offloaded together, in the order of their use, as
        `Transformer.units` does."""
        yield "embed_tokens", self.embed_tokens, ()
        for i, layer in enumerate(self.layers):
            yield f"layers.{i}", layer, ()

    def __call__(self, ids: mx.array) -> mx.array:
        """Return the last hidden state (n, hidden) of token ids (n,), in the embedding's dtype."""
        return self.encode([ids])[0]

    def encode(self, prompts: list[mx.array], on_block: OnBlock = no_block) -> list[mx.array]:
        """Encode several prompts, which pass each layer together: its weights are loaded once for all."""
        # Embed the tokens, scaled as in Gemma.
        mx.eval(self.embed_tokens.parameters())  # from disk, before the GPU could time out waiting for it
        states = [self.embed_tokens(ids) for ids in prompts]
        states = [x * mx.array(self.config.hidden_size**0.5, x.dtype) for x in states]
        mx.eval(states)
        self.offload(self.embed_tokens)
        # Run all prompts through each layer.
        for index, layer in enumerate(self.layers):
            for i, x in enumerate(states):
                states[i] = layer(x, self.work)
                mx.eval(states[i])
            self.offload(layer)
            on_block(index + 1, len(self.layers))
        return [self.norm(x) for x in states]
