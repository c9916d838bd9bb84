"""Networks larger than memory: weights are read from disk for every pass, and prefetched before their use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

Read = Callable[[mx.Stream], dict[str, mx.array]]  # → all tensors of a network, lazy: not yet read from disk


class Unit(NamedTuple):
    """Weights that are prefetched and offloaded together: all of a module, or some of its children."""

    path: str
    module: nn.Module
    children: tuple[str, ...] = ()

    def slots(self) -> dict[str, tuple[nn.Module, str]]:
        """Return where each tensor is, by its full name: the module that has it, and its name there."""
        found = {}
        for path, module in self.module.named_modules():
            if not self.children or path.partition(".")[0] in self.children:
                for name, value in module.items():
                    if isinstance(value, mx.array):
                        found[".".join(filter(None, (self.path, path, name)))] = (module, name)
        return found


class WeightStreamer:
    """Keeps resident the unit of a network that is in use, and as many of the next as the budget allows.

    The tensors of all other units are lazy arrays; using one reads it from disk."""

    def __init__(self, units: list[Unit], read: Read, repeatedly: bool):
        """Take `units` in the order of their use; `repeatedly` if many passes follow each other."""
        self.read, self.repeatedly = read, repeatedly
        self.slots = [unit.slots() for unit in units]
        self.index_of = {(id(unit.module), unit.children): i for i, unit in enumerate(units)}
        self.sizes = [sum(module[name].nbytes for module, name in s.values()) for s in self.slots]
        self.budget = budget([(unit.path, size) for unit, size in zip(units, self.sizes, strict=True)])
        self.lazy: dict[str, mx.array] = {}  # tensors to offload to
        self.resident: set[int] = set()
        self.restart()

    def restart(self) -> None:
        """Return to the state before the first pass, wherever one was interrupted."""
        mx.synchronize(reading_stream())  # or two copies of a unit might take memory
        for index in range(len(self.slots)):
            self._offload(index)

    def offload(self, module: nn.Module, children: tuple[str, ...] = ()) -> None:
        """Offload a unit, all uses of which have been evaluated, and prefetch the next ones.

        Wait until the very next one is resident: a GPU that waits for it in the middle of its commands would
        time out."""
        index = self.index_of[id(module), children]
        self._offload(index)
        self._prefetch(index + 1)
        following = (index + 1) % len(self.slots) if self.repeatedly else index + 1
        if following < len(self.slots):
            mx.eval(self._arrays(following))

    def _offload(self, index: int) -> None:
        """Replace a unit's tensors by lazy ones, which frees their memory."""
        names = self.slots[index].keys()
        if not names <= self.lazy.keys():
            self.lazy = self.read(reading_stream())
        for name, (module, key) in self.slots[index].items():
            module[key] = self.lazy.pop(name)
        self.resident.discard(index)

    def _prefetch(self, first: int) -> None:
        """Start to read the units from `first` on, as far as the budget allows."""
        count = len(self.slots)
        stop = first + count - 1 if self.repeatedly else count
        for index in (i % count for i in range(first, stop)):
            taken = sum(self.sizes[i] for i in self.resident - {index})
            if taken + self.sizes[index] > self.budget:
                return
            if index not in self.resident:
                self.resident.add(index)
                mx.async_eval(self._arrays(index))

    def _arrays(self, index: int) -> list[mx.array]:
        return [module[key] for module, key in self.slots[index].values()]


def budget(sizes: list[tuple[str, int]]) -> int:
    """Return how many bytes of a streamed network's units are resident at most: those of two modules.

    `sizes` are the units' paths and bytes; units of the same path belong to one module."""
    modules: dict[str, int] = {}
    for path, size in sizes:
        modules[path] = modules.get(path, 0) + size
    return 2 * max(modules.values(), default=0)


_thread = threading.local()  # a stream belongs to the thread that made it


def reading_stream() -> mx.Stream:
    """Return this thread's stream for reading, which runs beside the one that it computes on."""
    if not hasattr(_thread, "reading"):
        _thread.reading = mx.new_stream(mx.cpu)
    return _thread.reading
