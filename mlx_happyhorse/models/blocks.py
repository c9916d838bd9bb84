"""Progress within one pass through a network: a hook that is called after every block."""

from __future__ import annotations

from collections.abc import Callable

OnBlock = Callable[[int, int], None]  # (blocks done, blocks in all); an exception ends the pass


def no_block(done: int, of: int) -> None:
    """Do nothing after a block."""


def part_of(on_block: OnBlock, part: int, parts: int) -> OnBlock:
    """Return the hook for pass number `part` out of `parts` of equal length, which count as one."""
    return lambda done, of: on_block(part * of + done, parts * of)
