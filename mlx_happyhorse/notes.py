"""Notes on what a user should know although nothing failed: sent to a listener, else a Python warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

Listener = Callable[[str], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the notes of this context to `listener`, one plain line each."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def note(message: str) -> None:
    """Send a note to the listener, or without one warn the caller outside this package (UserWarning)."""
    if (listener := _listener.get()) is not None:
        listener(message)
    else:
        warnings.warn(message, stacklevel=_depth_outside())


def _depth_outside() -> int:
    package, depth, frame = str(Path(__file__).parent), 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        depth, frame = depth + 1, frame.f_back
    return depth
