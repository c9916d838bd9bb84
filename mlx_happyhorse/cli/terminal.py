"""Progress bars and messages, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..planning.stage import StageName
from ..runtime.waiting import RESUMABLE

if TYPE_CHECKING:
    from ..convert import Progress
    from ..pipeline.state import State
    from ..pipeline.writer import Saved

LABELS = {
    StageName.TEXT: "Encoding prompt",
    StageName.IMAGE: "Encoding image",
    StageName.VOICE: "Encoding voice",
    StageName.DENOISE: "Denoising",
    StageName.UPSCALE: "Upscaling",
    StageName.PICTURE: "Decoding video",
    StageName.SOUND: "Decoding sound",
}
BAR = "{desc:<18} {bar:20} {n:.3g}/{total_fmt}, {elapsed} elapsed{postfix}"
BYTES_BAR = "{desc:<18} {bar:20} {n_fmt}/{total_fmt}, {rate_fmt}, {elapsed} elapsed, {remaining} left"


class Terminal:
    """Standard error; a closed one must not end a run of hours."""

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
    """Write a line, above the progress bars."""
    from tqdm import tqdm

    tqdm.write(printable(message), file=TERMINAL)


def printable(text: str) -> str:
    """Replace control characters: names and settings may come from anybody."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def say_saved(saved: Saved, started: float) -> None:
    """Report a saved clip, made since `started` of time.monotonic()."""
    from ..geometry import FPS

    frames, height, width = saved.shape
    say(
        f"{saved.path}: {frames} frames of {width}×{height}, {frames / FPS:.2f} s, "
        f"seed {saved.settings['seed']}, made in {time.monotonic() - started:.1f} s"
    )


class Bars:
    """A progress bar for each stage of a run; it moves at every block and shows the time left."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.step = 0

    def on_block(self, done: int, of: int) -> None:
        if self.bar is not None:
            self.bar.update(self.step + done / of - self.bar.n)

    def over(self, states: Iterable[State]) -> Iterator[State]:
        """Pass the states on, and show them."""
        try:
            for state in states:
                self._show(state)
                yield state
        finally:
            self._close()

    def _show(self, state: State) -> None:
        from tqdm import tqdm

        from ..planning.plan import duration

        label = LABELS[state.stage]
        if self.bar is None or not self.bar.desc.startswith(label):
            self._close()
            self.bar = tqdm(desc=label, total=state.steps, bar_format=BAR, file=TERMINAL)
        left = f"{duration(state.seconds_left)} left, {size(state.memory)} in use"
        self.bar.set_postfix_str(left, refresh=False)
        self.step = state.step
        self.bar.update(state.step - self.bar.n)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None


def size(count: float) -> str:
    """Format a number of bytes: 12.3 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


@contextmanager
def counting_bytes(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar of bytes; yield the function that advances it."""
    with _bytes_bar(label, total) as bar:
        yield lambda count: bar.update(count)


@contextmanager
def converting() -> Iterator[Callable[[Progress], None]]:
    """Show a progress bar of the sources' bytes, labelled with the current component."""
    from tqdm import tqdm

    bar: tqdm | None = None

    def show(progress: Progress) -> None:
        nonlocal bar
        if not progress.total:
            return
        if bar is None:
            bar = _bytes_bar(progress.component, progress.total)
        bar.set_description_str(progress.component, refresh=False)
        bar.update(progress.done - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


@contextmanager
def fetching() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar of a Hub repo's bytes, if there are any to download."""
    bar: Any = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if total and bar is None:
            bar = _bytes_bar("Fetching", total)
        if bar is not None:
            bar.total = total
            bar.update(done - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


@contextmanager
def resumable() -> Iterator[None]:
    """Add to an interruption that the command can be resumed."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(RESUMABLE) from stop


def _bytes_bar(label: str, total: int | None) -> Any:
    from tqdm import tqdm

    return tqdm(desc=label, total=total, unit="B", unit_scale=True, bar_format=BYTES_BAR, file=TERMINAL)
