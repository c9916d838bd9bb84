"""The command line: thin commands over the Python API, plain errors, exit codes."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

from ..errors import HappyHorseError, RequestError
from ..notes import listening
from ..version import __version__
from . import bench, check, convert, demo, download, finish, generate, info
from .hints import in_flags
from .terminal import say

COMMANDS = {
    "generate": (generate.add, generate.run),
    "upscale": (finish.add_upscale, finish.upscale),
    "decode": (finish.add_decode, finish.decode),
    "info": (info.add, info.run),
    "download": (download.add, download.run),
    "convert": (convert.add, convert.run),
    "check": (check.add, check.run),
    "bench": (bench.add, bench.run),
    "demo": (demo.add, demo.run),
}
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    _prepare_process()
    tell = _say_once(set())
    with warnings.catch_warnings(), listening(tell):
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: tell(str(message))
        verbose, command = False, ""
        try:
            options = _options(arguments)
            verbose, command = options.verbose, options.command
            with _signals_held_back():
                _import_everything()
            options.run(options)
            if sys.stdout is not None:
                sys.stdout.flush()
            return DONE
        except KeyboardInterrupt as stop:
            say(f"Interrupted: {stop}." if str(stop) else "Interrupted.")
            return INTERRUPTED
        except BrokenPipeError:  # the reader of our output has closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        except HappyHorseError as error:
            code = USAGE if isinstance(error, RequestError) else FAILED
            return _fail(in_flags(error, command), code, verbose)
        except Exception as error:
            advice = "" if verbose else " Run it with --verbose for a traceback."
            message = f"{type(error).__name__}: {error}".rstrip(".")
            return _fail(f"{message}.{advice}", FAILED, verbose)


def _prepare_process() -> None:
    """Restore what a shell, a pipe or a closed terminal may have changed."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its warnings are for developers
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores one of them
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # it is closed, and the next file to be opened would take its place
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _import_everything() -> None:
    from tqdm import tqdm

    import_module("mlx_happyhorse.pipeline.happyhorse")
    tqdm.get_lock()


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Hold signals back until the imports are done: an interrupted import leaves modules half there."""
    received: list[int] = []
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for late in received:
        signal.raise_signal(late)


def _say_once(said: set[str]) -> Callable[[str], None]:
    def show(message: str) -> None:
        if message not in said:
            said.add(message)
            say(f"Note: {message}")

    return show


def _fail(message: str, code: int, verbose: bool) -> int:
    if verbose:
        traceback.print_exc()
    say(f"Error: {message}")
    return code


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any):
        super().__init__(**options, allow_abbrev=False)  # or --prom would mean --prompt-file

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"Error: {message}. See {self.prog} --help.\n")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options, rest = _parser().parse_known_args(arguments)
    if rest:
        unknown = next((word for word in rest if word.startswith("-")), None)
        options.parser.error(
            f"unknown option {unknown}"
            if unknown
            else f"unexpected argument {rest[0]!r} (put a prompt of several words in quotation marks)"
        )
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="happyhorse", description="Make video with sound from text, an image or a voice.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (add, run) in COMMANDS.items():
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        add(command)
        command.add_argument("--verbose", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=run, parser=command, command=name)
    return parser
