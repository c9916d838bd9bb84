"""Every error that this package raises on purpose. Messages are one or two lines, written for the user.

HappyHorseError
├── RequestError (also a ValueError)    the request is impossible as given
│   └── DoesNotFit                      it needs more memory than there is; see `suggestion`
├── ModelError                          model files are missing, damaged or of another kind
├── HubError                            the Hub is not reachable or refuses
│   ├── NotResponding                   the connection broke or the server is busy: retry
│   └── NoRevision                      the Hub does not have this commit
├── OutOfResources                      the machine gave up: out of memory, GPU timeout
├── BrokenRun                           the result is NaN, constant or silent; nothing is saved
└── Stopped                             the caller stopped the run or the download
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# Private-use characters around the name of an argument: the command line shows it as its own flag.
_ARGUMENT = re.compile("\ue000(.*?)\ue001")


def argument(name: str) -> str:
    """Mark the name of a Python argument in a message, for `HappyHorseError.worded`."""
    return f"\ue000{name}\ue001"


def worded(message: str, name_of: Callable[[str], str] = str) -> str:
    """Return a message with every marked argument as `name_of` calls it."""
    return _ARGUMENT.sub(lambda match: name_of(match[1]), message)


class HappyHorseError(Exception):
    """Base class of the package's errors."""

    def __str__(self) -> str:
        return self.worded()

    def worded(self, name_of: Callable[[str], str] = str) -> str:
        """Return the message with its arguments as `name_of` calls them, a command line's flags say."""
        return worded(super().__str__(), name_of)


class RequestError(HappyHorseError, ValueError):
    """The request is impossible as given."""


@dataclass(frozen=True)
class Suggestion:
    """The smallest change that makes a run fit: `settings` replace its own (None turns one off), or weights
    are streamed (`low_ram`), or frames are not kept in memory (`keep_frames` False)."""

    settings: dict[str, Any] = field(default_factory=dict)
    low_ram: bool = False
    keep_frames: bool = True

    def __str__(self) -> str:
        """Return the change as Python arguments."""
        if not self.keep_frames:
            return "With stream(..., keep_frames=False) it fits."
        settings = {"low_ram": True} if self.low_ram else self.settings
        return f"With {', '.join(f'{name}={value!r}' for name, value in settings.items())} it fits."


class DoesNotFit(RequestError):
    """The run needs more memory than there is. `why` says how much; `suggestion` is a change that fits, None
    if there is none, and `otherwise` what to do then."""

    def __init__(self, why: str, suggestion: Suggestion | None, otherwise: str):
        super().__init__(f"{why} {suggestion or otherwise}")
        self.why, self.suggestion, self.otherwise = why, suggestion, otherwise


class ModelError(HappyHorseError):
    """Model files are missing, damaged or of another kind."""


class HubError(HappyHorseError):
    """The Hub is not reachable, or refuses."""


class NotResponding(HubError):
    """The connection broke or the server is busy: retry, after `wait` seconds where the server said so."""

    wait: float | None = None


class NoRevision(HubError):
    """The Hub does not have this commit, or no longer."""


class OutOfResources(HappyHorseError):
    """The machine gave up on a run: out of memory, or the GPU timed out."""


class BrokenRun(HappyHorseError):
    """The result is NaN, constant or silent; nothing of it is saved."""


class Stopped(HappyHorseError):
    """The caller stopped the run or the download; nothing failed."""

    def __init__(self, message: str = "stopped."):
        super().__init__(message)
