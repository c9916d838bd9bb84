"""How long the stages of earlier runs took on this machine: better than any table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..files import home, read_object, store_object

KEPT = 16  # of each kind of stage, the latest
COMPARABLE = 20  # times more or less work tell little


class Timing(NamedTuple):
    """A stage that took so long for so many operations; `kind` says what else its speed hangs on."""

    kind: str
    work: float
    seconds: float


def file() -> Path:
    return home() / "timings.json"


def read(machine: str) -> list[Timing]:
    """What was recorded on this machine, the latest last; nothing if that cannot be read."""
    try:
        rows = read_object(file()).get(machine, [])
        timings = [Timing(str(kind), float(work), float(seconds)) for kind, work, seconds in rows]
        return [t for t in timings if t.work > 0 and 0 < t.seconds < math.inf]
    except (ValueError, TypeError, ArithmeticError):
        return []


def record(machine: str, timings: Iterable[Timing]) -> None:
    """Adds to what is known of this machine. A disk that cannot be written is no reason to fail."""
    rows = [*read(machine), *timings]
    kept = [t for i, t in enumerate(rows) if sum(later.kind == t.kind for later in rows[i:]) <= KEPT]
    store_object(file(), read_object(file()) | {machine: kept})


def expected(timings: Iterable[Timing], kind: str, work: float) -> float | None:
    """Seconds for so much work, after the recorded run that is most like it, the later of two; None if none
    did about as much."""
    alike = [t for t in timings if t.kind == kind and 1 / COMPARABLE < t.work / work < COMPARABLE]
    nearest = min(reversed(alike), key=lambda t: abs(math.log(t.work / work)), default=None)
    return None if nearest is None else nearest.seconds * work / nearest.work
