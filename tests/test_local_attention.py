"""Attention in windows without masks, against the masked formula."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_happyhorse.models import transformer
from mlx_happyhorse.models.matmul import UNLIMITED
from mlx_happyhorse.models.transformer import Layout, attend_rows

PER_FRAME, AUDIO, TEXT, REACH = 6, 9, 5, 11
HEADS, KV_HEADS, DIM = 4, 2, 16


def masked(q, k, v, layout):
    """Softmax over all tokens, with minus infinity where a video token may not look; float64."""
    q, k, v = (np.array(x, np.float64) for x in (q, k, v))
    k, v = (x.repeat(HEADS // KV_HEADS, axis=1) for x in (k, v))
    frame = np.arange(layout.video) // PER_FRAME
    scores = np.einsum("nhd,mhd->hnm", q, k) / np.sqrt(DIM)
    far = np.abs(frame[:, None] - frame[None]) > REACH
    scores[:, : layout.video, : layout.video][:, far] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hnm,mhd->nhd", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("frames", range(1, 41))
def test_windows_are_the_masked_formula(frames):
    layout = Layout(frames * PER_FRAME, AUDIO, TEXT, frames)
    n = layout.spans[2].stop
    keys = mx.random.split(mx.random.key(frames), 3)
    q = mx.random.normal((n, HEADS, DIM), key=keys[0])
    k, v = (mx.random.normal((n, KV_HEADS, DIM), key=key) for key in keys[1:])
    ours = np.array(attend_rows(q, k, v, 0, layout, REACH, UNLIMITED))
    assert np.abs(ours - masked(q, k, v, layout)).max() <= 1e-5


def work(monkeypatch, frames):
    """How many pairs of query and key the attentions of a layer look at."""
    pairs = 0

    def count(q, k, v):
        nonlocal pairs
        pairs += len(q) * len(k)
        return q

    monkeypatch.setattr(transformer, "attend", count)
    layout = Layout(frames * PER_FRAME, AUDIO, TEXT, frames)
    x = mx.zeros((layout.spans[2].stop, 1, 1))
    attend_rows(x, x, x, 0, layout, REACH, UNLIMITED)
    return pairs


def test_only_what_may_be_seen_is_looked_at(monkeypatch):
    """Beyond the window a frame more costs its own window, and a frame of keys for audio and text."""
    window = PER_FRAME * ((2 * REACH + 1) * PER_FRAME + AUDIO + TEXT)
    for frames in range(2 * REACH + 1, 41):
        more = work(monkeypatch, frames + 1) - work(monkeypatch, frames)
        assert more == window + (AUDIO + TEXT) * PER_FRAME
