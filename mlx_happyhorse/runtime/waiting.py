"""Waiting for the network, with a hook that reports and may end it: all that it calls may raise."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import copy_context
from multiprocessing.pool import AsyncResult
from typing import TypeVar

TICK = 0.2  # seconds between two calls of a hook
KEPT = "what is done is kept, and the same command resumes there"

T = TypeVar("T")
OnWait = Callable[[], None]


def awaited(result: AsyncResult[T], on_wait: OnWait) -> T:
    """Return a pool's result; call `on_wait` a few times a second until it is there."""
    while not result.ready():
        result.wait(TICK)
        on_wait()
    return result.get()


def attended(work: Callable[[], T], on_wait: OnWait) -> T:
    """Return what `work` does in a thread of its own, which ends by itself or with the process.

    Call `on_wait` here a few times a second meanwhile; where it raises, `work` is not waited for."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    # Its notes go where this thread's go.
    threading.Thread(target=copy_context().run, args=(run,), daemon=True).start()
    while not wait([future], TICK).done:
        on_wait()
    return future.result()
