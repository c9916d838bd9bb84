"""Print hashes of a clip for every mode (frames, sound, file): two versions that agree make the same clips.

python benchmarks/clip_hashes.py    (a minute)

The weights are `tiny`'s and those of `tests/golden`, converted to fp32; seeds are fixed. Hashes depend on the
machine and on MLX's version.
"""

from __future__ import annotations

import ctypes
import hashlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

with suppress(OSError):
    ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)

import numpy as np

from mlx_happyhorse import Clip, HappyHorse, Latents
from mlx_happyhorse.convert import Quantization, convert

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
PROMPT = "A red ball bounces on a blue floor."
SMALL: dict[str, Any] = {"seconds": 0.5, "width": 96, "height": 64, "steps": 2, "seed": 1}
UPSCALED: dict[str, Any] = {"upscale_size": (128, 96), "upscale_steps": 2}


def photo() -> np.ndarray:
    y, x = np.mgrid[0:150, 0:200]
    return np.stack([x, y, 255 - x], -1).astype(np.uint8)


def voice() -> tuple[np.ndarray, int]:
    time = np.arange(22_050) / 44_100
    tone = 0.5 * np.sin(2 * np.pi * 220 * time) * (1 + np.sin(2 * np.pi * 3 * time)) / 2
    return tone.astype(np.float32), 44_100


def golden(folder: Path, variant: str, turbo: bool = True, **options: Any) -> Path:
    parts = ["transformer", "text-encoder", "video-vae", "audio-vae", *(["turbo-decoder"] if turbo else [])]
    sources = [str(GOLDEN / f"{part}-tiny") for part in parts]
    out = folder / f"{variant}{turbo}{len(options)}"
    convert([*sources, f"upscaler_540p={GOLDEN / 'transformer-tiny'}"], out, variant=variant, **options)
    return out


def kept(horse: HappyHorse, folder: Path) -> Clip:
    """A clip upscaled later, from the latents that its first run saved."""
    *_, last = horse.stream(PROMPT, **SMALL)
    assert last.latents is not None
    last.latents.save(folder / "kept.safetensors")
    loaded = Latents.load(folder / "kept.safetensors")
    *_, last = horse.finish(loaded, upscale="540p", **UPSCALED)
    assert last.clip is not None
    return last.clip


def modes(folder: Path) -> Iterator[tuple[str, Callable[[], Clip]]]:
    tiny, streamed = HappyHorse.load("tiny"), HappyHorse.load("tiny", low_ram=True)
    base = HappyHorse.load(golden(folder, "base", dtype="float32"))
    wan = HappyHorse.load(golden(folder, "distill", turbo=False, dtype="float32"))
    halves = HappyHorse.load(golden(folder, "distill"))
    yield "text", lambda: tiny.generate(PROMPT, **SMALL)
    yield "text, streamed weights", lambda: streamed.generate(PROMPT, **SMALL)
    yield "first frame", lambda: tiny.generate(PROMPT, image=photo(), **SMALL)
    yield "own voice", lambda: tiny.generate(PROMPT, audio=voice(), **SMALL)
    yield "first frame and voice", lambda: tiny.generate(PROMPT, image=photo(), audio=voice(), **SMALL)
    yield "540p", lambda: tiny.generate(PROMPT, upscale="540p", **UPSCALED, **SMALL)
    yield "1080p", lambda: tiny.generate(PROMPT, upscale="1080p", **UPSCALED, **SMALL)
    yield "540p of kept latents", lambda: kept(tiny, folder)
    yield "base, guided", lambda: base.generate(PROMPT, guidance=4.0, **SMALL)
    yield (
        "base, guided upscaling",
        lambda: base.generate(
            PROMPT, upscale="540p", upscale_guidance=3.5, image=photo(), **UPSCALED, **SMALL
        ),
    )
    yield "Wan decoder, first frame", lambda: wan.generate(PROMPT, image=photo(), **SMALL)
    yield "bf16", lambda: halves.generate(PROMPT, **SMALL)
    for bits in (8, 4):
        how = Quantization(bits, 32)
        quantized = HappyHorse.load(
            golden(folder, "distill", dtype="float32", quantization=how, recipe="uniform")
        )
        yield f"{bits} bits", lambda quantized=quantized: quantized.generate(PROMPT, **SMALL)
        folder = folder / str(bits)
        folder.mkdir()


def shortened(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'mode':<28}{'frames':<20}{'sound':<20}file")
        for mode, make in modes(Path(folder)):
            clip = make()
            clip.settings |= {"model": "", "weights": {}}  # paths of this run's folder are in them
            file = clip.save(Path(folder) / "clip.mp4").read_bytes()
            hashes = shortened(clip.video.tobytes()), shortened(clip.audio.tobytes()), shortened(file)
            print(f"{mode:<28}{hashes[0]:<20}{hashes[1]:<20}{hashes[2]}", flush=True)
