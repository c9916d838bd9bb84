"""Print hashes of a clip for every mode (frames, sound, file): two versions that agree make the same clips.

python benchmarks/clip_hashes.py [MODE ...]    (all modes: a minute)

The weights are `tiny`'s and those of `tests/golden`, converted to fp32; seeds are fixed. Hashes depend on the
machine and on MLX's version.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import helpers.openblas  # noqa: F401  before MLX
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


class Modes:
    """A clip of every mode. Models are converted when a mode first needs them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.made: dict[str, Callable[[], Clip]] = {
            "text": lambda: self.tiny().generate(PROMPT, **SMALL),
            "text, streamed weights": lambda: self.tiny(low_ram=True).generate(PROMPT, **SMALL),
            "first frame": lambda: self.tiny().generate(PROMPT, image=photo(), **SMALL),
            "own voice": lambda: self.tiny().generate(PROMPT, audio=voice(), **SMALL),
            "first frame and voice": lambda: self.tiny().generate(
                PROMPT, image=photo(), audio=voice(), **SMALL
            ),
            "540p": lambda: self.tiny().generate(PROMPT, upscale="540p", **UPSCALED, **SMALL),
            "1080p": lambda: self.tiny().generate(PROMPT, upscale="1080p", **UPSCALED, **SMALL),
            "540p of kept latents": self.upscaled_later,
            "base, guided": lambda: self.base().generate(PROMPT, guidance=4.0, **SMALL),
            "base, guided upscaling": lambda: self.base().generate(
                PROMPT, upscale="540p", upscale_guidance=3.5, image=photo(), **UPSCALED, **SMALL
            ),
            "Wan decoder, first frame": lambda: self.golden("distill", turbo=False, dtype="float32").generate(
                PROMPT, image=photo(), **SMALL
            ),
            "bf16": lambda: self.golden("distill").generate(PROMPT, **SMALL),
            "8 bits": lambda: self.quantized(8).generate(PROMPT, **SMALL),
            "4 bits": lambda: self.quantized(4).generate(PROMPT, **SMALL),
        }

    @cache  # noqa: B019  lives as long as the program
    def tiny(self, low_ram: bool | None = None) -> HappyHorse:
        return HappyHorse.load("tiny", low_ram=low_ram)

    @cache  # noqa: B019
    def base(self) -> HappyHorse:
        return self.golden("base", dtype="float32")

    def quantized(self, bits: int) -> HappyHorse:
        how = Quantization(bits, 32)
        return self.golden("distill", dtype="float32", quantization=how, recipe="uniform")

    def golden(self, variant: str, turbo: bool = True, **options: Any) -> HappyHorse:
        parts = ["transformer", "text-encoder", "video-vae", "audio-vae"]
        sources = [str(GOLDEN / f"{part}-tiny") for part in (*parts, *(["turbo-decoder"] if turbo else []))]
        out = Path(tempfile.mkdtemp(dir=self.folder)) / "model"
        upscaler = f"upscaler_540p={GOLDEN / 'transformer-tiny'}"
        convert([*sources, upscaler], out, variant=variant, **options)
        return HappyHorse.load(out)

    def upscaled_later(self) -> Clip:
        """A clip upscaled from the latents that its first run saved."""
        *_, last = self.tiny().stream(PROMPT, **SMALL)
        assert last.latents is not None
        last.latents.save(self.folder / "kept.safetensors")
        loaded = Latents.load(self.folder / "kept.safetensors")
        *_, last = self.tiny().finish(loaded, upscale="540p", **UPSCALED)
        assert last.clip is not None
        return last.clip


def shortened(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("modes", nargs="*", metavar="MODE")
    chosen = parser.parse_args(arguments).modes
    with warnings.catch_warnings(action="ignore"), tempfile.TemporaryDirectory() as folder:
        print(f"{'mode':<28}{'frames':<20}{'sound':<20}file")
        made = Modes(Path(folder)).made
        for mode in chosen or made:
            clip = made[mode]()
            clip.settings |= {"model": "", "weights": {}}  # paths of this run's folder are in them
            file = clip.save(Path(folder) / "clip.mp4").read_bytes()
            hashes = shortened(clip.video.tobytes()), shortened(clip.audio.tobytes()), shortened(file)
            print(f"{mode:<28}{hashes[0]:<20}{hashes[1]:<20}{hashes[2]}", flush=True)


if __name__ == "__main__":
    main()
