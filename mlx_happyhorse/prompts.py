"""Prompts: what is said to the model, and what it is told to avoid."""

from __future__ import annotations

import warnings
from pathlib import Path

import mlx.core as mx
from tokenizers import Tokenizer

from .errors import ModelError

MAX_TOKENS = 640
MAX_CONTEXT = 4096  # tokens that the encoder sees: what is cut still colours what is kept
NEGATIVE_PROMPT = (
    "low quality, blurry, out of focus, compression artefacts, flicker, jitter, ghosting, frozen picture, "
    "overexposed, washed-out colours, oversharpened, watermark, logo, subtitles, text overlay, "
    "deformed face, deformed hands, extra fingers, extra limbs, melting shapes, warped background, "
    "stiff expression, lifeless eyes, unnatural movement, lips out of step with the speech, "
    "noise, hiss, hum, crackle, clipping, distortion, echo, muffled voice, robotic voice, monotone delivery, "
    "mumbling, stuttering, wrong pronunciation, silence where speech should be, "
    "abrupt cuts in the sound, music that drowns the voice"
)


def load_tokenizer(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"{file} cannot be read as a tokenizer: {error}") from error


def tokenize(tokenizer: Tokenizer, prompt: str) -> mx.array:
    """Ids (n,) with the tokenizer's own <bos>, never padded. Warns of what lies beyond 640 tokens."""
    encoding = tokenizer.encode(prompt)
    if len(encoding.ids) > MAX_TOKENS:
        first = encoding.offsets[MAX_TOKENS][0]
        warnings.warn(
            f"a prompt has {len(encoding.ids)} tokens and the model reads {MAX_TOKENS}: "
            f"cut from {_excerpt(prompt[first:].strip())!r} on.",
            stacklevel=2,
        )
    return mx.array(encoding.ids[:MAX_CONTEXT])


def _excerpt(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
