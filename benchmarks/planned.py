"""Hold the memory that was planned against what MLX measures, stage by stage, over many runs.

python benchmarks/planned.py [--runs 48 | --quick]

Models of several dimensions with random weights, in fp32 and quantized, make clips of several lengths and
sizes, from text, a first frame, a voice, upscaled, with weights resident and streamed. Stages that take less
than 10 MB are shown and not counted.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import helpers.openblas  # noqa: F401  before MLX
import numpy as np

from mlx_happyhorse import HappyHorse
from mlx_happyhorse.convert import Quantization, convert, tiny

SMALL = 10e6  # bytes
PROMPTS = count()  # one for each run, so that no run finds its prompt in the cache
BITS = (32, 8, 4)
WIDE = {"hidden_size": 512, "num_heads": 4, "num_kv_heads": 2, "head_dim": 128}
DEEP = {"hidden_size": 256, "num_heads": 4, "num_kv_heads": 1, "head_dim": 64, "num_layers": 10}
DIMENSIONS: dict[str, dict[str, dict[str, Any]]] = {
    "wide": {
        "transformer": WIDE | {"gelu_size": 2048, "swiglu_size": 1408, "text_channels": 256},
        "text_encoder": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8},
        "video_decoder": {"widths": [16, 32, 64, 64], "layers": [2, 2, 2, 3, 3]},
        "video_encoder": {"width": 32, "residual_blocks": 2},
        "audio_vae": {"channels": 16},
    },
    "deep": {
        "transformer": DEEP | {"gelu_size": 1024, "swiglu_size": 768, "modality_layers": [0, 1, 8, 9]},
        "text_encoder": {"num_hidden_layers": 6},
        "video_decoder": {"type": "video_decoder", "width": 16},
        "video_encoder": {"width": 16, "residual_blocks": 2},
        "audio_vae": {"channels": 24},
    },
}
FACE = {"image": np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)}
VOICE = {"audio": (np.sin(np.arange(80_000) / 9).astype(np.float32), 44_100)}
UP = {"upscale": "540p", "upscale_size": (320, 192)}
GUIDED = {"upscale_guidance": 3, "upscale_negative_prompt": "Blurred."}
CLIPS: list[dict[str, Any]] = [
    {"seconds": 1, "width": 256, "height": 160},
    {"seconds": 3, "width": 256, "height": 160},
    {"seconds": 1, "width": 416, "height": 224},
    {"seconds": 1, "width": 224, "height": 128} | FACE,
    {"width": 192, "height": 128} | VOICE,
    {"seconds": 0.6, "width": 160, "height": 96} | UP | FACE,
    {"seconds": 0.6, "width": 640, "height": 352},
    {"seconds": 0.6, "width": 160, "height": 96} | UP | {"upscale_size": (480, 256)} | GUIDED,
]


def build(folder: Path, changes: dict[str, dict[str, Any]]) -> Path:
    """A model like the embedded one, of other dimensions."""
    networks = {name: dict(config) for name, config in tiny.NETWORKS.items()}
    for name, change in changes.items():
        networks[name] |= change
    upscaler = networks["transformer"] | {"coordinates": "v1"}
    networks |= {"upscaler_540p": upscaler, "upscaler_1080p": upscaler | {"local_layers": [1]}}
    tiny.write(folder, networks)
    return folder


def run(model: Path, low_ram: bool, clip: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """By stage: bytes planned and measured."""
    horse = HappyHorse.load(model, low_ram=low_ram)
    prompt = f"A prompt that nobody has read before, number {next(PROMPTS)}."
    for state in horse.stream(prompt, seed=1, steps=2, keep_frames=False, **clip):
        plan, taken = state.plan, state.taken
    assert plan is not None
    measured = {stage.stage: stage.bytes for stage in taken}
    return {s.name: (s.bytes, measured[s.name]) for s in plan.stages if s.name in measured}


def show(label: str, found: dict[str, tuple[int, int]]) -> list[float]:
    errors, words = [], []
    for stage, (planned, measured) in found.items():
        error = planned / measured - 1
        if max(planned, measured) >= SMALL:
            errors.append(error)
        words.append(f"{stage} {planned / 1e6:.1f}/{measured / 1e6:.1f} ({error:+.0%})")
    print(f"{label}: {', '.join(words)}", flush=True)
    return errors


def quick_runs(work: Path) -> Iterator[tuple[str, Path, bool, dict[str, Any]]]:
    """One run of the embedded model, too small to be counted."""
    yield "tiny", build(work / "tiny", {}), False, {"seconds": 0.2, "width": 64, "height": 32}


def all_runs(work: Path) -> Iterator[tuple[str, Path, bool, dict[str, Any]]]:
    """Every run: its label, the model, whether its weights are streamed, and the clip."""
    for dimensions, changes in DIMENSIONS.items():
        source = build(work / dimensions, changes)
        for bits in BITS:
            model = source
            if bits < 32:
                model = work / f"{dimensions}-{bits}"
                convert([source], model, dtype="float32", quantization=Quantization(bits, 64))
            for index, clip in enumerate(CLIPS):
                low_ram = (index + bits // 4) % 2 == 1
                label = f"{dimensions} {bits} bits {'streamed' if low_ram else 'resident'} {_words(clip)}"
                yield label, model, low_ram, clip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=None)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    runs = quick_runs if options.quick else all_runs
    with warnings.catch_warnings(action="ignore"), tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["HAPPYHORSE_HOME"] = str(work / "home")
        found = [
            show(label, run(model, low_ram, clip))
            for label, model, low_ram, clip in islice(runs(work), options.runs)
        ]
    errors = [error for stages in found for error in stages]
    low, high = min(errors, default=0), max(errors, default=0)
    print(
        f"{len(found)} runs, {len(errors)} stages of 10 MB and more: planned {low:+.1%} to {high:+.1%} of "
        f"measured, {sum(abs(e) <= 0.1 for e in errors)} of them within 10 %"
    )


def _words(clip: dict[str, Any]) -> str:
    size = f"{clip['width']}×{clip['height']}"
    modes = [name for name in ("image", "audio", "upscale", "upscale_guidance") if name in clip]
    return " ".join([size, f"{clip.get('seconds', 'voice')} s", *modes])


if __name__ == "__main__":
    main()
