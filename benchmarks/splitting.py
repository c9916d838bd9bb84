"""Compare the transformer's work in chunks with all at once: the results, and how much memory it takes.

python benchmarks/splitting.py [--quick]    (some minutes, up to 20 GB of memory; --quick: only small grids)

A transformer of few narrow layers, experts of one modality, GELU and local layers among them, fp32, random
weights. First a small sequence: the largest difference of split work from unsplit, relative to the largest
number. Then sequences as long as those of clips of 5 s at 540p and at 1080p: MLX's peak over what was there
before. Chunks are those that an M1 gets at full width. A CPU materialises attention's scores: where these
do not fit, unsplit work is not run, and only their size is printed. It also is slow at them: at 1080p it
computes attention once for each number of queries and keys, which decide on the peak, and puts zeros in place
of the others.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import helpers.openblas  # noqa: F401  before MLX
import mlx.core as mx

from mlx_happyhorse.diffusion.sequence import coordinates, rotation
from mlx_happyhorse.models import transformer
from mlx_happyhorse.models.matmul import UNLIMITED, Work
from mlx_happyhorse.models.transformer import Transformer, TransformerConfig
from mlx_happyhorse.planning.hardware import CHIPS, DISPATCH_SECONDS, MLP_ROWS, STREAMED_ROWS

MIB = 2**20
MOST = 12e9  # bytes of scores that may be materialised
CPU = mx.default_device() == mx.cpu
FULL_WIDTH = TransformerConfig().num_heads * TransformerConfig().head_dim
SMALL = TransformerConfig(
    hidden_size=256,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    gelu_size=1024,
    swiglu_size=640,
    text_channels=64,
    modality_layers=(0, 3),
    gelu_layers=(0,),
    local_layers=(1, 3),
    local_frames=2,
)
MIDDLE = replace(SMALL, num_layers=2, num_heads=2, num_kv_heads=1, modality_layers=(0,), local_layers=())
LARGE = replace(MIDDLE, num_layers=3, num_heads=1, local_layers=(1, 2), local_frames=11, coordinates="v1")
LOCAL = replace(LARGE, local_layers=(0, 1, 2))
SPLITS = {
    "rows": Work(rows=100),
    "few rows": Work(rows=17),
    "attention": Work(flops=1e6),
    "query by query": Work(flops=1),
    "both": Work(flops=1e6, rows=64),
}

Grid = tuple[int, int, int]
Out = tuple[mx.array, mx.array]


class Ran(NamedTuple):
    out: Out
    peak: int
    seconds: float


class Case:
    """A model, and a sequence of a video of `grid` (frames, rows, columns) tokens, audio and text."""

    def __init__(self, config: TransformerConfig, grid: Grid, audio: int, text: int):
        mx.random.seed(0)
        self.model = Transformer(config)
        self.model.dtype = mx.float32
        self.frames = grid[0]
        self.tokens = math.prod(grid) + audio + text
        channels = config.video_channels, config.audio_channels, config.text_channels
        counts = math.prod(grid), audio, text
        self.video, self.audio, self.text = map(mx.random.normal, zip(counts, channels, strict=True))
        angles = coordinates(grid, audio, text, config.coordinates)
        self.rope = rotation(angles, config.rope_bands)
        mx.eval(self.model.parameters(), self.video, self.audio, self.text, self.rope)

    @property
    def scores(self) -> int:
        """Bytes of attention's, where all tokens see all."""
        return 4 * self.model.config.num_heads * self.tokens**2

    def run(self, work: Work) -> Ran:
        self.model.work = work
        mx.clear_cache()
        mx.reset_peak_memory()
        before, started = mx.get_active_memory(), time.monotonic()
        out = self.model(self.video, self.audio, self.text, self.rope, self.frames)
        mx.eval(out)
        return Ran(out, mx.get_peak_memory() - before, time.monotonic() - started)

    def chunks(self) -> dict[str, Work]:
        """What an M1 gets at once, in proportion to the width here."""
        config = self.model.config
        share = config.num_heads * config.head_dim / FULL_WIDTH
        whole = Work(CHIPS["M1"].tflops * 1e12 * DISPATCH_SECONDS * share, MLP_ROWS)
        return {"split": whole, "split, low RAM": replace(whole, rows=STREAMED_ROWS)}


def difference(out: Out, expected: Out) -> float:
    """The largest, in relation to the largest number."""
    pairs = zip(out, expected, strict=True)
    return max(float(mx.abs(a - b).max() / mx.abs(b).max()) for a, b in pairs)


def show_differences(case: Case) -> None:
    print(f"{case.tokens} tokens, split against unsplit, largest relative difference")
    expected = case.run(UNLIMITED).out
    found = {name: difference(case.run(work).out, expected) for name, work in SPLITS.items()}
    for name, value in found.items():
        print(f"  {name:16}{value:.1e}")
    print(f"  {'at most 1e-6' if max(found.values()) <= 1e-6 else 'MORE THAN 1e-6'}", flush=True)


@contextmanager
def some_attention() -> Iterator[None]:
    """Attention is computed once for each number of queries and keys."""
    attend = transformer.attend
    seen: set[tuple[int, int]] = set()

    def attend_once(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        if (len(q), len(k)) in seen:
            return mx.zeros(q.shape, q.dtype)
        seen.add((len(q), len(k)))
        return attend(q, k, v)

    with patch.object(transformer, "attend", attend_once):
        yield


def show_peaks(name: str, case: Case, full: bool = True, all_attention: bool = True) -> None:
    """`full` tells whether there are layers in which all tokens see all."""
    config = case.model.config
    dims = f"{config.num_layers} layers, {config.num_heads} heads of {config.head_dim}"
    scores = f", scores of all tokens {case.scores / MIB:,.0f} MiB" if full else ""
    print(f"{name}: {case.tokens} tokens, {dims}{scores}", flush=True)
    works = {"unsplit": UNLIMITED} | case.chunks()
    if full and CPU and case.scores > MOST:
        print(f"  {'unsplit':16}not run", flush=True)
        del works["unsplit"]
    expected = None
    for label, work in works.items():
        with nullcontext() if all_attention else some_attention():
            ran = case.run(work)
        print(f"  {label:16}peak +{ran.peak / MIB:,.0f} MiB, {ran.seconds:.1f} s", end="")
        if expected is not None and all_attention:
            print(f", differs by {difference(ran.out, expected):.1e}", end="")
        print(flush=True)
        expected = expected or ran.out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args(arguments).quick
    show_differences(Case(SMALL, (3, 3, 3), 3, 2) if quick else Case(SMALL, (8, 6, 10), 29, 40))
    middle, large = ((3, 4, 6), (3, 4, 6)) if quick else ((32, 16, 28), (32, 34, 60))
    show_peaks("540p", Case(MIDDLE, middle, 126, 300))
    every = quick or not CPU
    show_peaks("1080p, every layer local", Case(LOCAL, large, 126, 300), full=False, all_attention=every)
    show_peaks("1080p, most layers local", Case(LARGE, large, 126, 300), all_attention=every)


if __name__ == "__main__":
    main()
