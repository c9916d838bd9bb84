"""happyhorse …: thin commands over the Python API, plain errors, exit codes."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from .errors import HappyHorseError, RequestError
from .version import __version__

STAGES = {
    "text": "Reading the prompt",
    "image": "First frame",
    "denoise": "Denoising",
    "upscale": "Upscaling",
    "picture": "Decoding picture",
    "sound": "Decoding sound",
}
BAR = "{desc:<18} {bar:20} {n_fmt}/{total_fmt}, {elapsed} gone, {remaining} left"
DONE, FAILED, ASKED_WRONGLY, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 2 asked wrongly, 130 interrupted."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _say(f"Note: {message}")
        try:
            options.run(options)
            return DONE
        except KeyboardInterrupt:
            return _fail("Interrupted: nothing was saved.", INTERRUPTED, verbose=False)
        except RequestError as error:
            return _fail(str(error), ASKED_WRONGLY, options.verbose)
        except HappyHorseError as error:
            return _fail(str(error), FAILED, options.verbose)
        except Exception as error:
            advice = "" if options.verbose else " Run it again with --verbose to see where."
            return _fail(f"{type(error).__name__}: {error}.{advice}", FAILED, options.verbose)


def _fail(message: str, code: int, verbose: bool) -> int:
    if verbose:
        traceback.print_exc()
    _say(message if code == INTERRUPTED else f"Error: {message}")
    return code


class _Terminal:
    """Standard error, closed or not: nobody reading any more must not end a run of hours."""

    encoding = getattr(sys.stderr, "encoding", "ascii")

    def write(self, text: str) -> None:
        with suppress(OSError, AttributeError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, AttributeError):
            sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr is not None and sys.stderr.isatty()


def _say(message: str) -> None:
    print(message, file=_Terminal(), flush=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(ASKED_WRONGLY, f"Error: {message}. See {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="happyhorse", description="Video with sound from text, at home.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, add, run in (("generate", _add_generate, _generate), ("convert", _add_convert, _convert)):
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        add(command)
        command.add_argument("--verbose", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=run)
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="what should be seen and heard")
    parser.add_argument("--model", "-m", default="tiny", help="a name, a Hub repo or a folder (tiny)")
    parser.add_argument("--output", "-o", default="clip.mp4", help="the file to write (clip.mp4)")
    parser.add_argument("--seconds", type=float, help="length, 0.2 to 30")
    parser.add_argument("--width", type=int, help="pixels, a multiple of 32")
    parser.add_argument("--height", type=int, help="pixels, a multiple of 32")
    parser.add_argument("--steps", type=int, help="steps of denoising")
    parser.add_argument("--guidance", type=float, help="how strictly to follow the prompt; 1 is not at all")
    parser.add_argument("--negative-prompt", help="what to avoid, where guidance is above 1")
    parser.add_argument("--seed", type=int, help="the same seed makes the same clip (random)")


def _generate(options: argparse.Namespace) -> None:
    """make a clip from a prompt"""
    from .media import check_output
    from .pipeline import HappyHorse

    started = time.monotonic()
    output = check_output(options.output)
    horse = HappyHorse.load(options.model)
    names = ("seconds", "width", "height", "steps", "guidance", "negative_prompt", "seed")
    states = horse.stream(options.prompt, **{name: getattr(options, name) for name in names})
    clip = _with_bars(states)
    clip.save(output)
    frames, height, width, _ = clip.video.shape
    _say(
        f"{output}: {frames} frames of {width}×{height}, {frames / clip.fps:.2f} s, "
        f"seed {clip.settings['seed']}, made in {time.monotonic() - started:.1f} s"
    )


def _with_bars(states: Iterable[Any]) -> Any:
    """Runs to the end with a bar for every stage; returns the clip."""
    from tqdm import tqdm

    bar = None
    try:
        for state in states:
            label = STAGES[state.stage]
            if bar is None or not bar.desc.startswith(label):
                if bar is not None:
                    bar.close()
                bar = tqdm(desc=label, total=state.steps, bar_format=BAR, file=_Terminal())
            bar.update(state.step - bar.n)
        return state.clip
    finally:
        if bar is not None:
            bar.close()


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hf-path",
        "--model",
        dest="sources",
        nargs="+",
        required=True,
        metavar="[COMPONENT=]PATH",
        help="checkpoints: folders or files; upscaler_540p=PATH where the folder's name does not tell",
    )
    parser.add_argument("--mlx-path", default="mlx_model", help="the folder to write (mlx_model)")
    parser.add_argument("--variant", choices=("base", "distill"), help="if the folder's name does not tell")
    parser.add_argument("--dtype", default="bfloat16", help="of large matrices: float16, float32 (bfloat16)")
    parser.add_argument("--quantize", "-q", action="store_true", help="quantize the large matrices")
    parser.add_argument("--q-bits", type=int, default=4, choices=(4, 8), help="bits per weight (4)")
    parser.add_argument("--q-group-size", type=int, default=64, choices=(32, 64, 128), help="(64)")


def _convert(options: argparse.Namespace) -> None:
    """turn published PyTorch checkpoints into a model folder"""
    from .convert import Quantization, convert

    how = Quantization(options.q_bits, options.q_group_size) if options.quantize else None
    for line in convert(
        options.sources,
        options.mlx_path,
        variant=options.variant,
        dtype=options.dtype,
        quantization=how,
    ):
        _say(line)
    _say(f"Written: {options.mlx_path}")
