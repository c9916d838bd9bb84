"""MLX in threads: its streams of a thread must be freed before the thread ends."""

from __future__ import annotations

import threading

import mlx.core as mx

_local = threading.local()


class _Ending:
    """Thread-local object whose end frees MLX's streams of its thread.

    MLX itself frees them when the system's thread ends, for which Python before 3.13 does not wait: if the
    interpreter exits meanwhile, the process is aborted (seen with MLX 0.32.4)."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def __del__(self) -> None:
        if threading.get_ident() == self.thread:  # not where the exit of the interpreter collected it
            mx.clear_streams()


def end_with_thread() -> None:
    """Have MLX free this thread's streams when the thread ends. Call it before MLX is used on a thread.

    Do nothing on the main thread, which ends last, nor on one that Python did not start and may reuse."""
    thread = threading.current_thread()
    ours = thread is not threading.main_thread() and not isinstance(thread, threading._DummyThread)
    if ours and not hasattr(_local, "ending"):
        _local.ending = _Ending()
