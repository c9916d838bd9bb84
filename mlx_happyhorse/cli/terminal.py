"""What a person sees while a command runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..run import State

STAGES = {
    "text": "Reading the prompt",
    "image": "First frame",
    "voice": "Own voice",
    "denoise": "Denoising",
    "upscale": "Upscaling",
    "picture": "Decoding picture",
    "sound": "Decoding sound",
}
BAR = "{desc:<18} {bar:20} {n_fmt}/{total_fmt}, {elapsed} gone, {remaining} left"


class Terminal:
    """Standard error, closed or not: nobody reading any more must not end a run of hours."""

    encoding = getattr(sys.stderr, "encoding", "ascii")

    def write(self, text: str) -> None:
        with suppress(OSError, AttributeError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, AttributeError):
            sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr is not None and sys.stderr.isatty()


TERMINAL = Terminal()


def say(message: str) -> None:
    """Writes a line, above the bars where there are some."""
    from tqdm import tqdm

    tqdm.write(printable(message), file=TERMINAL)


def printable(text: str) -> str:
    """Without what would steer the terminal: names and settings may come from anybody."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def with_bars(states: Iterable[State]) -> Iterator[State]:
    """Passes the states on and shows a bar for every stage."""
    from tqdm import tqdm

    bar = None
    try:
        for state in states:
            label = STAGES[state.stage]
            if bar is None or not bar.desc.startswith(label):
                if bar is not None:
                    bar.close()
                bar = tqdm(desc=label, total=state.steps, bar_format=BAR, file=TERMINAL)
            bar.update(state.step - bar.n)
            yield state
    finally:
        if bar is not None:
            bar.close()
