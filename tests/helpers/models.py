"""Whole model folders for tests, made of the golden weights."""

from functools import cache
from pathlib import Path

from helpers.golden_cases import WORK

from mlx_happyhorse import HappyHorse
from mlx_happyhorse.convert import convert

GOLDEN = Path(__file__).parents[1] / "golden"


@cache
def golden_model(variant: str, turbo: bool = True) -> HappyHorse:
    parts = ["transformer", "text-encoder", "video-vae", "audio-vae", *(["turbo-decoder"] if turbo else [])]
    upscaler = f"upscaler_540p={GOLDEN / 'transformer-tiny'}"
    out = WORK / f"{variant}-{turbo}"
    convert([*(GOLDEN / f"{part}-tiny" for part in parts), upscaler], out, variant=variant, dtype="float32")
    return HappyHorse.load(out)
