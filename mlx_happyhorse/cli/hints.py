"""The core's arguments and suggestions as flags of the command line."""

from __future__ import annotations

from typing import Any

from ..errors import DoesNotFit, HappyHorseError, Suggestion

# Where the flag is not the argument's own name.
FLAGS = {
    "folder": "--output-dir",
    "out": "--mlx-path",
    "quantization": "--quantize",
    "recipe": "--quant-predicate",
    "sources": "--hf-path",
}


def in_flags(error: HappyHorseError, command: str) -> str:
    """Return an error's message with the flags of `command` for the arguments that it names."""
    if not isinstance(error, DoesNotFit) or error.suggestion is None:
        return error.worded(flag)
    return f"{error.why} With{_change(error.suggestion, command)} it fits."


def flag(name: str) -> str:
    """Return the flag of an argument: low_ram → --low-ram."""
    return FLAGS.get(name, f"--{name.replace('_', '-')}")


def _change(suggestion: Suggestion, command: str) -> str:
    if suggestion.low_ram:
        return " --low-ram"
    settings = dict(suggestion.settings)
    if "upscale" in settings:
        del settings["upscale"], settings["upscale_size"]
        return "out --upscale" + (f" and with{_options(settings, command)}" if settings else "")
    return _options(settings, command)


def _options(settings: dict[str, Any], command: str) -> str:
    return "".join(f" {_option(name, command)} {_value(value)}" for name, value in settings.items())


def _option(name: str, command: str) -> str:
    return "--size" if command == "upscale" and name == "upscale_size" else flag(name)


def _value(value: Any) -> str:
    return f"{value[0]}x{value[1]}" if isinstance(value, tuple) else f"{value:g}"
