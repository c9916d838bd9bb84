"""How MLX uses memory while a run lasts, and what its errors mean in words."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import mlx.core as mx

from ..errors import OutOfResources, RequestError, argument

CACHE_BYTES = 1 << 30  # what MLX may keep of freed memory
WINOGRAD = "MLX_CONV_WINOGRAD_WORKING_SET"  # bytes, read by MLX at every convolution
WINOGRAD_BYTES = 1 << 30

# The names that macOS gives to commands which kept the GPU for too long.
WATCHDOG = r"ImpactingInteractivity|Impacting Interactivity|Timeout|GPU Hang"
WATCHDOG_HELP = (
    "Let the display sleep, close other programs, or set AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1, which is reported "
    "to help at times."
)

# What MLX says → what that means and what helps. Command buffers' errors are named by macOS.
EXPLANATIONS = {
    r"OutOfMemory|Insufficient Memory|out of memory|Unable to allocate|Resource limit": (
        f"out of memory. Set {argument('low_ram')}, use fewer bits, make the clip shorter or smaller, or "
        "close other programs."
    ),
    WATCHDOG: (
        f"macOS ended it, as it kept the GPU for too long. {WATCHDOG_HELP} A smaller or shorter clip is less "
        "work."
    ),
    r"SubmissionsIgnored": (
        "macOS takes no more commands of this program, as earlier ones failed. Start the program again."
    ),
    r"maximum allowed buffer size|maximum Metal buffer size": (
        "an array is larger than this machine's GPU takes. Choose a smaller or shorter clip."
    ),
    r"Command buffer execution failed": "the GPU failed. Try again; if it stays so, restart the Mac.",
    r"Unable to read from file": "a file of the model cannot be read: try happyhorse check MODEL.",
}


class _Limits:
    """MLX's limits, which are the process's: set while anybody runs, then as they were before the first.

    Runs may be nested, on several threads, and generators end in any order."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wired: list[int] = []  # bytes of weights that stay, of everybody who runs
        self.caches: list[int] = []  # bytes that each lets MLX keep
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
ELSEWHERE = "There is no Stream"


@contextmanager
def limits(wired: int = 0, cache: int = CACHE_BYTES) -> Iterator[None]:
    """Sets MLX's limits, and puts them back: `cache` bytes of freed memory that it keeps, memory for fast
    convolutions and, so that macOS does not swap weights which stay, as many bytes as `wired`."""
    try:
        with _limits.lock:
            _limits.enter(wired, cache)
        yield
    finally:
        with _limits.lock:
            _limits.leave(wired, cache)


def _wirable(weights: int) -> int:
    recommended = int(mx.device_info().get("max_recommended_working_set_size", 0))
    return min(int(1.1 * weights), int(0.9 * recommended))


def settle() -> None:
    """Wait for all that was begun. Commands behind a failed one may fail too: MLX would raise their errors
    at whatever comes next, in the next run even."""
    with suppress(RuntimeError):
        mx.synchronize()


@contextmanager
def explained(stage: str) -> Iterator[None]:
    """Turn what MLX raises into words. Raises OutOfResources where the machine gives up, and RequestError
    where a generator is advanced by another thread than the one that began it."""
    try:
        yield
    except RuntimeError as error:
        settle()
        if ELSEWHERE in str(error):
            raise RequestError(
                f"{stage}: it was begun on another thread, and MLX's arrays belong to theirs. Stay on one "
                "thread, or use stream or generate, which any thread may call."
            ) from error
        for pattern, words in EXPLANATIONS.items():
            if re.search(pattern, str(error)):
                raise OutOfResources(f"{stage}: {words}") from error
        raise
