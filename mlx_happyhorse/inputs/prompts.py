"""Prompts and negative prompts, their form and their tokens."""

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

MAX_TOKENS = 640  # whose features the transformer sees, as in the reference
MAX_CONTEXT = 4096  # tokens that the encoder sees: those beyond MAX_TOKENS influence the features of the rest
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
# Characters of Chinese, Japanese and Korean: kana, ideographs and their iteration marks, syllables.
CJK = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3131-\u318e\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003fffd"
)


@dataclass(frozen=True)
class Line:
    """A line of dialogue: `speaker` in about five words ("Young woman in red"), `language` of `LANGUAGES`."""

    speaker: str
    language: str
    text: str

    @classmethod
    def parse(cls, line: str) -> Line:
        """Parse "speaker, language: text". Raise RequestError for another form."""
        match = re.fullmatch(
            r"\s*(.+?)\s*[,，]\s*([^\s,，:：][^,，:：]*?)\s*[:：]\s*(.+?)\s*", line, re.DOTALL
        )
        if match is None:
            raise RequestError(f"{line!r} is not a line of dialogue: write it as 'speaker, language: text'.")
        return cls(*match.groups())

    def __str__(self) -> str:
        return f'<{_plain(self.speaker)}, {_plain(self.language)}>: "{_spaced(self.text)}"'


@dataclass(frozen=True)
class Prompt:
    """A prompt in the form that the model was trained on; `str` writes it out.

    `description` is a paragraph of 150 to 200 English words: appearance, setting, then what happens in
    order. `background_sound` describes music and noises beside the voices; None means nothing prominent.
    Raise RequestError if a part is empty; note languages that the model does not speak."""

    description: str
    dialogue: Sequence[Line] = ()
    background_sound: str | None = None

    def __post_init__(self) -> None:
        lines = self.dialogue
        if not isinstance(lines, Sequence) or not all(isinstance(line, Line) for line in lines):
            raise RequestError("a prompt's dialogue must be a list of Line(speaker, language, text).")
        if not isinstance(self.background_sound, str | None):
            raise RequestError(f"a background sound must be text, not {self.background_sound!r}.")
        parts = [self.description, *(part for line in self.dialogue for part in vars(line).values())]
        if not all(isinstance(part, str) and part.strip() for part in parts):
            raise RequestError(
                "a prompt needs a description, and each line a speaker, a language and a text."
            )
        for line in self.dialogue:
            if line.language.strip().capitalize() not in LANGUAGES:
                known = ", ".join(LANGUAGES)
                note(f"the model does not speak {line.language}, only {known}.")

    def __str__(self) -> str:
        sections = [self.description.strip()]
        if self.dialogue:
            sections.append("\n".join(["Dialogue:", *map(str, self.dialogue)]))
        sections.append(f"Background Sound:\n<{_plain(self.background_sound or '') or SILENCE}>")
        return "\n\n".join(sections)


def _plain(text: str) -> str:
    """Return the text on one line, without angle brackets, which delimit it in the prompt."""
    return " ".join(re.sub("[<>]", " ", text).split())


def _spaced(text: str) -> str:
    """Return the text on one line, without enclosing quotation marks, with spaces between CJK characters."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    text = re.sub(r'^(?:"([^"]*)"|“([^“”]*)”|„([^„“]*)“|«([^«»]*)»|「([^「」]*)」)$', _inner, text)
    return re.sub(rf"(?<=[{CJK}])\s*(?=[{CJK}])", " ", text)


def _inner(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None)


def load_tokenizer(file: Path) -> Tokenizer:
    """Load a tokenizer.json. Raise ModelError if it is damaged."""
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"{file} cannot be read as a tokenizer: {error}") from error


def tokenize(tokenizer: Tokenizer, prompt: str) -> mx.array:
    """Return token ids (n,) with the tokenizer's <bos>, not padded. Note the part beyond 640 tokens."""
    encoding = tokenizer.encode(prompt)
    if len(encoding.ids) > MAX_TOKENS:
        first = encoding.offsets[MAX_TOKENS][0]
        note(
            f"a prompt has {len(encoding.ids)} tokens and the model reads {MAX_TOKENS}: "
            f"it is cut at {_excerpt(prompt[first:].strip())!r}."
        )
    return mx.array(encoding.ids[:MAX_CONTEXT])


def _excerpt(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
