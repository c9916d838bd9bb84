"""MLX in threads: what it keeps for one must go before the thread does."""

from __future__ import annotations

import threading

import mlx.core as mx

_local = threading.local()


class _Ending:
    """Goes with its thread, and takes along what MLX keeps for that one.

    MLX itself does so as the system's thread ends, for which Python before 3.13 does not wait: if the
    interpreter ends meanwhile, the process is aborted (seen with MLX 0.32.4)."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def __del__(self) -> None:
        if threading.get_ident() == self.thread:  # not where the interpreter's end is what took it
            mx.clear_streams()


def end_with_thread() -> None:
    """Before MLX is used on a thread: has it let go of that one in time.

    Not of the main thread, which ends last, nor of one that Python did not start and may come back to."""
    thread = threading.current_thread()
    ours = thread is not threading.main_thread() and not isinstance(thread, threading._DummyThread)
    if ours and not hasattr(_local, "ending"):
        _local.ending = _Ending()
