"""Progress inside a pass through a network: a hook that is called after every block."""

from __future__ import annotations

from collections.abc import Callable

OnBlock = Callable[[int, int], None]  # blocks done, of how many; what it raises ends the pass


def no_block(done: int, of: int) -> None:
    """Do nothing after a block."""


def part_of(on_block: OnBlock, part: int, parts: int) -> OnBlock:
    """The hook of one pass where `parts` of them, of equal length, make the whole."""
    return lambda done, of: on_block(part * of + done, parts * of)
