"""Prompts: what is said to the model, and what it is told to avoid."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from tokenizers import Tokenizer

from ..errors import ModelError, RequestError
from ..notes import note

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

LANGUAGES = ("Mandarin", "Cantonese", "English", "Japanese", "Korean", "German", "French")
SILENCE = "No prominent background sound"
# Letters of Chinese, Japanese and Korean: kana, ideographs with their signs of repetition, syllables.
CJK = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3131-\u318e\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003fffd"
)


@dataclass(frozen=True)
class Line:
    """What somebody says: `speaker` in about five words ("Young woman in red"), in one of `LANGUAGES`."""

    speaker: str
    language: str
    text: str

    @classmethod
    def parse(cls, line: str) -> Line:
        """ "speaker, language: text" → the line. Raises RequestError."""
        match = re.fullmatch(
            r"\s*(.+?)\s*[,，]\s*([^\s,，:：][^,，:：]*?)\s*[:：]\s*(.+?)\s*", line, re.DOTALL
        )
        if match is None:
            raise RequestError(f"{line!r} is no line of dialogue: write it as 'speaker, language: text'.")
        return cls(*match.groups())

    def __str__(self) -> str:
        return f'<{_plain(self.speaker)}, {_plain(self.language)}>: "{_spaced(self.text)}"'


@dataclass(frozen=True)
class Prompt:
    """A prompt in the form that the model was trained on; `str` writes it out.

    `description` is a paragraph of 150 to 200 English words: appearance, setting, then what happens in
    its order. The `background_sound` is what is heard besides the voices, None for nothing in particular.
    Raises RequestError if a part of it is empty; warns of languages that the model does not speak."""

    description: str
    dialogue: Sequence[Line] = ()
    background_sound: str | None = None

    def __post_init__(self) -> None:
        lines = self.dialogue
        if not isinstance(lines, Sequence) or not all(isinstance(line, Line) for line in lines):
            raise RequestError("a prompt's dialogue is a list of Line(speaker, language, text).")
        if not isinstance(self.background_sound, str | None):
            raise RequestError(f"a background sound is words, not {self.background_sound!r}.")
        parts = [self.description, *(part for line in self.dialogue for part in vars(line).values())]
        if not all(isinstance(part, str) and part.strip() for part in parts):
            raise RequestError(
                "a prompt needs a description, and each line a speaker, a language and a text."
            )
        for line in self.dialogue:
            if line.language.strip().capitalize() not in LANGUAGES:
                known = ", ".join(LANGUAGES)
                note(f"the model does not know {line.language}: it speaks {known}.")

    def __str__(self) -> str:
        sections = [self.description.strip()]
        if self.dialogue:
            sections.append("\n".join(["Dialogue:", *map(str, self.dialogue)]))
        sections.append(f"Background Sound:\n<{_plain(self.background_sound or '') or SILENCE}>")
        return "\n\n".join(sections)


def _plain(text: str) -> str:
    """On one line, without the brackets that would end its place."""
    return " ".join(re.sub("[<>]", " ", text).split())


def _spaced(text: str) -> str:
    """On one line, without quotation marks around it, CJK letters one space apart from each other."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    text = re.sub(r'^(?:"([^"]*)"|“([^“”]*)”|„([^„“]*)“|«([^«»]*)»|「([^「」]*)」)$', _inner, text)
    return re.sub(rf"(?<=[{CJK}])\s*(?=[{CJK}])", " ", text)


def _inner(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None)


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
        note(
            f"a prompt has {len(encoding.ids)} tokens and the model reads {MAX_TOKENS}: "
            f"cut from {_excerpt(prompt[first:].strip())!r} on."
        )
    return mx.array(encoding.ids[:MAX_CONTEXT])


def _excerpt(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
