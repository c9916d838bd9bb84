"""Networks larger than memory: their weights are read anew for every pass, a little ahead of their use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

Read = Callable[[mx.Stream], dict[str, mx.array]]  # → all tensors of a network, not yet read from disk


class Unit(NamedTuple):
    """What a network uses at a time and is done with together: some of a module's children, or all."""

    path: str
    module: nn.Module
    children: tuple[str, ...] = ()

    def slots(self) -> dict[str, tuple[nn.Module, str]]:
        """By the tensor's full name: the module that holds it, and under what name."""
        found = {}
        for path, module in self.module.named_modules():
            if not self.children or path.partition(".")[0] in self.children:
                for name, value in module.items():
                    if isinstance(value, mx.array):
                        found[".".join(filter(None, (self.path, path, name)))] = (module, name)
        return found


class Streamed:
    """Keeps of a network's units the one in use, and as many of the next as two modules' weights take.

    The units' tensors are lazy, and are put back to that as soon as they were used."""

    def __init__(self, units: list[Unit], read: Read, repeatedly: bool):
        """`units` in the order of their use, in one pass or `repeatedly`."""
        self.read, self.repeatedly = read, repeatedly
        self.slots = [unit.slots() for unit in units]
        self.places = {(id(unit.module), unit.children): i for i, unit in enumerate(units)}
        self.sizes = [sum(module[name].nbytes for module, name in s.values()) for s in self.slots]
        self.budget = budget([(unit.path, size) for unit, size in zip(units, self.sizes, strict=True)])
        self.fresh: dict[str, mx.array] = {}
        self.held: set[int] = set()
        self.restart()

    def restart(self) -> None:
        """Return to the state before the first pass, wherever one was broken off."""
        mx.synchronize(reading_stream())  # or two copies of a unit might take memory
        for index in range(len(self.slots)):
            self._put_back(index)

    def done(self, module: nn.Module, children: tuple[str, ...] = ()) -> None:
        """Lets go of a unit and starts to read the ones after it. What used it has been evaluated.

        Waits for the next one, so that a GPU does not in the middle of its commands, which would time out."""
        index = self.places[id(module), children]
        self._put_back(index)
        self._read_ahead(index + 1)
        following = (index + 1) % len(self.slots) if self.repeatedly else index + 1
        if following < len(self.slots):
            mx.eval(self._arrays(following))

    def _put_back(self, index: int) -> None:
        names = self.slots[index].keys()
        if not names <= self.fresh.keys():
            self.fresh = self.read(reading_stream())
        for name, (module, key) in self.slots[index].items():
            module[key] = self.fresh.pop(name)
        self.held.discard(index)

    def _read_ahead(self, first: int) -> None:
        count = len(self.slots)
        stop = first + count - 1 if self.repeatedly else count
        for index in (i % count for i in range(first, stop)):
            taken = sum(self.sizes[i] for i in self.held - {index})
            if taken + self.sizes[index] > self.budget:
                return
            if index not in self.held:
                self.held.add(index)
                mx.async_eval(self._arrays(index))

    def _arrays(self, index: int) -> list[mx.array]:
        return [module[key] for module, key in self.slots[index].values()]


def budget(sizes: list[tuple[str, int]]) -> int:
    """Bytes that the weights of a streamed network take, given its units' paths and sizes."""
    modules: dict[str, int] = {}
    for path, size in sizes:
        modules[path] = modules.get(path, 0) + size
    return 2 * max(modules.values(), default=0)


_thread = threading.local()  # streams belong to threads


def reading_stream() -> mx.Stream:
    """This thread's stream for reading, beside the one it computes on."""
    if not hasattr(_thread, "reading"):
        _thread.reading = mx.new_stream(mx.cpu)
    return _thread.reading
