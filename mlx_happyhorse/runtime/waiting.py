"""Waiting for the network, with a hook that reports progress and may raise to end it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import copy_context
from multiprocessing.pool import AsyncResult
from typing import TypeVar

TICK = 0.2  # seconds between calls of a hook
RESUMABLE = "finished work is kept; run the same command to resume"

T = TypeVar("T")
OnWait = Callable[[], None]


def wait_for(result: AsyncResult[T], on_wait: OnWait) -> T:
    """Return a pool's result; call `on_wait` a few times a second while waiting."""
    while not result.ready():
        result.wait(TICK)
        on_wait()
    return result.get()


def run_in_background(work: Callable[[], T], on_wait: OnWait) -> T:
    """Return the result of `work` in a daemon thread; call `on_wait` here a few times a second meanwhile.

    An exception from `on_wait` is raised at once, without waiting for `work`."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    # Copy the context, so that its notes reach the same listener.
    threading.Thread(target=copy_context().run, args=(run,), daemon=True).start()
    while not wait([future], TICK).done:
        on_wait()
    return future.result()
