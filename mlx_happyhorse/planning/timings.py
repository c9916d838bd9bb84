"""Seconds that the stages of earlier runs took on this machine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..files import home, read_object, store_object

KEPT = 16  # latest runs of each kind of stage
COMPARABLE = 20  # runs with more than so many times the work, or the part, are not compared


class Timing(NamedTuple):
    """The seconds that a stage took for its `work`; its speed depends on `kind` and the machine."""

    kind: str
    work: float
    seconds: float


def file() -> Path:
    return home() / "timings.json"


def read(machine: str) -> list[Timing]:
    """Return the recorded timings of a machine, latest last; none where the file is damaged."""
    try:
        rows = read_object(file()).get(machine, [])
        timings = [Timing(str(kind), float(work), float(seconds)) for kind, work, seconds in rows]
        return [t for t in timings if t.work > 0 and 0 < t.seconds < math.inf]
    except (ValueError, TypeError, ArithmeticError):
        return []


def record(machine: str, timings: Iterable[Timing]) -> None:
    """Record timings of a machine. A disk that cannot be written to is ignored."""
    rows = [*read(machine), *timings]
    kept = [t for i, t in enumerate(rows) if sum(later.kind == t.kind for later in rows[i:]) <= KEPT]
    store_object(file(), read_object(file()) | {machine: kept})


def expected(timings: Iterable[Timing], kind: str, work: float) -> float | None:
    """Return the seconds to expect for `work`, from the recorded run with the nearest amount of work (the
    latest of equals); None if none is comparable."""
    alike = [t for t in timings if t.kind == kind and 1 / COMPARABLE < t.work / work < COMPARABLE]
    nearest = min(reversed(alike), key=lambda t: abs(math.log(t.work / work)), default=None)
    return None if nearest is None else nearest.seconds * work / nearest.work
