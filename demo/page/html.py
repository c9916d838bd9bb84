"""Small pieces of HTML that several parts of the page share. All text is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def size(count: float) -> str:
    """Return a number of bytes in MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def line(text: str) -> str:
    return f'<p class="hh-line">{escape(text)}</p>'


def messages(lines: Iterable[str]) -> str:
    """Return lines that screen readers announce."""
    return "".join(f'<p class="hh-line" role="status">{escape(text)}</p>' for text in lines)
