"""The reference's recorded numbers: cases found by file name, weights converted by our converter."""

from __future__ import annotations

import atexit
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_happyhorse.convert import convert
from mlx_happyhorse.models.transformer import Transformer
from mlx_happyhorse.storage import weights

OURS = Path(__file__).parents[1] / "golden"
FOLDER = Path(os.environ.get("HAPPYHORSE_GOLDEN", OURS))
WORK = Path(tempfile.mkdtemp(prefix="golden-"))
atexit.register(shutil.rmtree, WORK, ignore_errors=True)
KINDS = {"transformer", "text_encoder", "video_vae", "turbo_decoder", "audio_vae", "pipeline", "parts"}


class Case:
    def __init__(self, path: Path):
        loaded: Any = mx.load(str(path), return_metadata=True)
        self.tensors: dict[str, mx.array] = loaded[0]
        self.settings: dict[str, str] = loaded[1]

    def __getitem__(self, name: str) -> mx.array:
        return self.tensors[name]

    def get(self, name: str) -> mx.array | None:
        return self.tensors.get(name)

    def setting(self, name: str) -> Any:
        return json.loads(self.settings[name])

    def numbered(self, pattern: str) -> list[str]:
        """Names such as `ids.3` for the pattern `ids.{}`, as many as there are."""
        n = 0
        while pattern.format(n) in self.tensors:
            n += 1
        return [pattern.format(i) for i in range(n)]

    def draw(self, first: int = 0) -> Callable[[tuple[int, ...]], mx.array]:
        """Hands out the recorded noise in order. With a recording given, the reference may have drawn
        noise for the audio's steps all the same: that is passed over."""
        noise = iter(range(first, 1000))
        audio_given = self.settings.get("audio_given") == "true"

        def draw(shape: tuple[int, ...]) -> mx.array:
            drawn = latents(self[f"in.noise.{next(noise):02d}"])
            while audio_given and drawn.shape != shape:
                drawn = latents(self[f"in.noise.{next(noise):02d}"])
            assert drawn.shape == shape
            return drawn

        return draw


def kinds() -> set[str]:
    """What the folder holds cases of."""
    return {path.name.split(".")[0] for path in FOLDER.glob("*.safetensors")}


def each(kind: str) -> pytest.MarkDecorator:
    """Runs a test on every case of a kind."""
    paths = sorted(FOLDER.glob(f"{kind}.*.safetensors"))
    return pytest.mark.parametrize("case", [pytest.param(p, id=p.stem) for p in paths], indirect=True)


def weights_in(name: str) -> Path:
    """The folder of weights that a case names: beside it, or else among our own."""
    folder = FOLDER / name
    return folder if folder.exists() else OURS / name


def latents(x: mx.array) -> mx.array:
    """The reference's (1, channels, frames, h, w) or (1, n, c) as ours: channels last, no batch."""
    return x[0].transpose(1, 2, 3, 0) if x.ndim == 5 else x[0]


def distance(ours: mx.array | np.ndarray, reference: mx.array | np.ndarray) -> float:
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


def strays_no_further(case: Case, ours: dict[str, mx.array]) -> bool:
    """Whether bf16 takes our outputs away from the fp32 ones by no more than 1.5 times as far as the
    reference's. All together: of the few numbers of one output alone, rounding may hit some by chance."""
    exact, theirs = ([latents(case[f"{kind}.{name}"]) for name in ours] for kind in ("fp32", "bf16"))
    return math.hypot(*map(distance, ours.values(), exact)) <= 1.5 * math.hypot(*map(distance, theirs, exact))


@cache
def converted(source: Path, dtype: str = "float32", settings: str = "{}") -> Path:
    """The model folder our converter makes of one checkpoint, with more `settings` beside it."""
    out = Path(tempfile.mkdtemp(dir=WORK))
    if source.is_dir() and json.loads(settings):
        shutil.copytree(source, out / "source")
        source = out / "source"
        arch = json.loads((source / "arch.json").read_text()) | json.loads(settings)
        (source / "arch.json").write_text(json.dumps(arch))
    convert([source], out / "model", variant="base", dtype=dtype)
    return out / "model"


def network(case: Case, component: str, dtype: str = "float32", **settings: Any) -> Any:
    folder = converted(weights_in(case.settings["weights"]), dtype, json.dumps(settings))
    return weights.load(folder / component)


def transformer(case: Case, dtype: str) -> Transformer:
    return network(
        case,
        "transformer",
        dtype,
        local_attn_layers=case.setting("local_attn_layers"),
        frame_receptive_field=case.setting("frame_receptive_field"),
        coords=case.settings["coords"],
    )
