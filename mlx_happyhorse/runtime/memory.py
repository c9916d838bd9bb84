"""MLX's memory limits during a run, and its errors explained."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import mlx.core as mx

from ..errors import OutOfResources, RequestError, argument

CACHE_BYTES = 1 << 30  # of freed memory that MLX may cache
WINOGRAD = "MLX_CONV_WINOGRAD_WORKING_SET"  # bytes, read by MLX at every convolution
WINOGRAD_BYTES = 1 << 30  # temporary memory of fast convolutions, else about 14 times their input

# How macOS reports commands that kept the GPU for too long.
WATCHDOG = r"ImpactingInteractivity|Impacting Interactivity|Timeout|GPU Hang"
WATCHDOG_HELP = (
    "Let the display sleep, close other programs, or set AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1, which is reported "
    "to help sometimes."
)

# MLX's message → what it means and what helps. Errors of command buffers are named by macOS.
EXPLANATIONS = {
    r"OutOfMemory|Insufficient Memory|out of memory|Unable to allocate|Resource limit": (
        f"out of memory. Set {argument('low_ram')}, use fewer bits, make the clip shorter or smaller, or "
        "close other programs."
    ),
    WATCHDOG: (
        f"macOS ended it, because it kept the GPU for too long. {WATCHDOG_HELP} A smaller or shorter clip is "
        "less work."
    ),
    r"SubmissionsIgnored": (
        "macOS accepts no more GPU commands from this program, because earlier ones failed. Start it again."
    ),
    r"maximum allowed buffer size|maximum Metal buffer size": (
        "an array is larger than this machine's GPU takes. Choose a smaller or shorter clip."
    ),
    r"Command buffer execution failed": "the GPU failed. Try again; if it fails again, restart the Mac.",
    r"Unable to read from file": "a file of the model cannot be read: run happyhorse check MODEL.",
}


class _Limits:
    """MLX's limits, which apply to the whole process: set while at least one run lasts, then restored.

    Runs may be nested or on several threads, and may end in any order."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wired: list[int] = []  # bytes of resident weights, of each run
        self.caches: list[int] = []  # bytes that each run lets MLX cache
        self.before = ExitStack()

    def enter(self, wired: int, cache: int) -> None:
        if not self.wired:
            self.before.callback(mx.set_cache_limit, mx.set_cache_limit(CACHE_BYTES))
            self.before.callback(mx.set_wired_limit, mx.set_wired_limit(0))
            if WINOGRAD not in os.environ:
                os.environ[WINOGRAD] = str(WINOGRAD_BYTES)
                self.before.callback(os.environ.pop, WINOGRAD, None)
        self.wired.append(wired)
        self.caches.append(cache)
        mx.set_cache_limit(min(self.caches))
        mx.set_wired_limit(_wirable(sum(self.wired)))

    def leave(self, wired: int, cache: int) -> None:
        if wired in self.wired:
            self.wired.remove(wired)
            self.caches.remove(cache)
        if self.wired:
            mx.set_cache_limit(min(self.caches))
            mx.set_wired_limit(_wirable(sum(self.wired)))
        else:
            self.before.close()
        mx.clear_cache()


_limits = _Limits()
OTHER_THREAD = "There is no Stream"  # MLX, for arrays of another thread


@contextmanager
def limits(wired: int = 0, cache: int = CACHE_BYTES) -> Iterator[None]:
    """Set MLX's limits, and restore them at the end: `cache` bytes of freed memory, temporary memory of fast
    convolutions, and `wired` bytes of resident weights, which macOS then does not swap."""
    try:
        with _limits.lock:
            _limits.enter(wired, cache)
        yield
    finally:
        with _limits.lock:
            _limits.leave(wired, cache)


def _wirable(weights: int) -> int:
    # 10 % above the weights for what MLX allocates around them, 10 % below what the GPU may use.
    recommended = int(mx.device_info().get("max_recommended_working_set_size", 0))
    return min(int(1.1 * weights), int(0.9 * recommended))


def settle() -> None:
    """Wait for all commands. Those behind a failed one may fail too, and MLX would raise their errors later,
    even in the next run."""
    with suppress(RuntimeError):
        mx.synchronize()


@contextmanager
def explain_errors(stage: str) -> Iterator[None]:
    """Explain MLX's errors. Raise OutOfResources where the machine fails, and RequestError where a generator
    is advanced by another thread than the one that started it."""
    try:
        yield
    except RuntimeError as error:
        settle()
        if OTHER_THREAD in str(error):
            raise RequestError(
                f"{stage}: it was started on another thread, and MLX's arrays belong to their thread. Use "
                "one thread, or use stream or generate, which any thread may call."
            ) from error
        for pattern, words in EXPLANATIONS.items():
            if re.search(pattern, str(error)):
                raise OutOfResources(f"{stage}: {words}") from error
        raise
