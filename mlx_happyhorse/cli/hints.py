"""What the core suggests, in the words of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..errors import DoesNotFit, Suggestion


def worded(error: DoesNotFit, command: str) -> str:
    """Why a run does not fit, and the flags of `command` with which it would."""
    if error.suggestion is None:
        return f"{error.why} {error.otherwise.replace('force it', '--force it')}"
    return f"{error.why} With{_flags(error.suggestion, command)} it fits."


def _flags(suggestion: Suggestion, command: str) -> str:
    if suggestion.low_ram:
        return " --low-ram"
    settings = dict(suggestion.settings)
    if "upscale" in settings:
        del settings["upscale"], settings["upscale_size"]
        return "out --upscale" + (f" and with{_options(settings, command)}" if settings else "")
    return _options(settings, command)


def _options(settings: dict[str, Any], command: str) -> str:
    return "".join(f" {_flag(name, command)} {_value(value)}" for name, value in settings.items())


def _flag(name: str, command: str) -> str:
    if command == "upscale" and name == "upscale_size":
        return "--size"
    return f"--{name.replace('_', '-')}"


def _value(value: Any) -> str:
    return f"{value[0]}x{value[1]}" if isinstance(value, tuple) else f"{value:g}"
