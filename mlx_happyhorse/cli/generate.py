from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..files import expanded
from .hints import worded
from .terminal import Bars, say, say_saved

if TYPE_CHECKING:
    from ..inputs.prompts import Prompt
    from ..outputs.latents import Latents
    from ..pipeline.happyhorse import HappyHorse
    from ..pipeline.preview import PreviewFile
    from ..pipeline.state import State
    from ..pipeline.writer import Output
    from ..runtime.runs import States

LARGEST_PROMPT = 1_000_000  # bytes
NONE = object()  # said to be left out, where an earlier clip had it
# What followed from an earlier picture, recording or size, and does not fit another one.
FOLLOWS = {
    "image": ("width", "height", "upscale_size"),
    "audio": ("seconds",),
    "width": ("upscale_size",),
    "height": ("upscale_size",),
    "ratio": ("width", "height", "upscale_size"),
    "upscale": ("upscale_size",),
}
OF_VARIANT = ("steps", "guidance")  # a distilled model's are not those of its base


def add(parser: argparse.ArgumentParser) -> None:
    words = parser.add_argument_group("what is seen and heard")
    prompt = words.add_mutually_exclusive_group()
    prompt.add_argument("words", nargs="?", metavar="prompt", help="in words; - reads it from standard input")
    prompt.add_argument("--prompt", help="the same, as an option")
    prompt.add_argument("--prompt-file", metavar="FILE", help="a text file with it")
    words.add_argument(
        "--dialogue",
        action="append",
        metavar="LINE",
        help="'speaker, language: text', once for every line; puts the prompt into the model's own form",
    )
    words.add_argument("--background-sound", metavar="SOUND", help="heard besides the voices; the same form")
    words.add_argument(
        "--negative-prompt",
        metavar="PROMPT",
        help="to avoid, in place of the usual flaws, where guidance is above 1 (distilled models have none)",
    )
    words.add_argument("--image", metavar="FILE", help="a picture: the first frame, and the clip's shape")
    words.add_argument("--audio", metavar="FILE", help="a recording: what is heard, and the clip's length")
    parser.add_argument("--model", "-m", help="a name, a Hub repo or a folder (tiny)")
    clip = parser.add_argument_group("how", "without: as picture and recording suggest, else the model's own")
    clip.add_argument("--seconds", type=float, help="length, 0.2 to 60")
    clip.add_argument("--width", type=int, help="pixels, rounded down to a multiple of 32")
    clip.add_argument("--height", type=int, help="the same")
    clip.add_argument("--ratio", help="16:9, 9:16, 1:1, 4:3 or 3:4, in place of width and height")
    clip.add_argument("--steps", type=int, help="steps of denoising")
    clip.add_argument("--guidance", type=float, help="how strictly to follow the prompt; 1 is not at all")
    clip.add_argument(
        "--seed", type=_seed, nargs="+", help="the same seed makes the same clip (random); several, several"
    )
    upscale = parser.add_argument_group("super-resolution")
    upscale.add_argument("--upscale", choices=("540p", "1080p"), help="at what size to end")
    upscale.add_argument(
        "--upscale-size",
        type=size,
        metavar="WIDTHxHEIGHT",
        help="exactly so large (as 540p or 1080p holds)",
    )
    upscale.add_argument("--upscale-steps", type=int, metavar="STEPS", help="(5)")
    upscale.add_argument("--upscale-guidance", type=float, metavar="GUIDANCE", help="1 is none (1)")
    upscale.add_argument(
        "--upscale-negative-prompt", metavar="PROMPT", help="to avoid there, if not the same (the same)"
    )
    add_align_corners(upscale)
    add_machine(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="show what it will take, stage by stage, and end"
    )
    _add_files(parser)


def _add_files(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("files")
    files.add_argument(
        "--output",
        "-o",
        default="clip.mp4",
        help="{seed} stands for the seed; a name that is taken gets a number (clip.mp4, then clip_1.mp4)",
    )
    add_preview(files)
    files.add_argument("--metadata", action="store_true", help="write the settings beside it too, as JSON")
    files.add_argument(
        "--save-latents", action="store_true", help="keep what decoding or upscaling it later needs"
    )
    files.add_argument(
        "--keep-stopped", action="store_true", help="when stopped with Ctrl-C, decode and save what there is"
    )
    files.add_argument(
        "--config-from-metadata",
        metavar="CLIP",
        help="repeat a clip (mp4) or the settings beside it (json); what else is given here wins",
    )
    for name in ("image", "audio", "upscale"):
        files.add_argument(
            f"--no-{name}", dest=name, action="store_const", const=NONE, help=f"repeat it without {name}"
        )


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        message = f"{text!r} is no number; a prompt goes before it, or into --prompt"
        raise argparse.ArgumentTypeError(message) from error


def size(text: str) -> tuple[int, int]:
    """Of an argument like 960x544."""
    width, _, height = text.replace("×", "x").partition("x")
    try:
        return int(width), int(height)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write it like 960x544") from error


def add_align_corners(parser: Any) -> None:
    parser.add_argument(
        "--align-corners",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="how the picture is laid on the larger grid; without, it is reported to ghost less",
    )


def add_preview(parser: Any) -> None:
    parser.add_argument(
        "--preview",
        metavar="FILE",
        help="rewrite this at every step with how the clip will look: .webp (moving), .png or .jpg (a still)",
    )


def add_force(parser: Any) -> None:
    parser.add_argument("--force", action="store_true", help="run it even where memory will not suffice")


def add_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the machine")
    group.add_argument(
        "--low-ram",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="read the transformer anew for every step (where it does not fit otherwise)",
    )
    add_force(group)
    group.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="what large matrices are computed in (as they are stored); float16 suits M1 and M2",
    )
    group.add_argument(
        "--dense-rows",
        type=int,
        metavar="TOKENS",
        help="from how many on quantized matrices are expanded before they are multiplied (by the chip)",
    )


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Those options, as HappyHorse.load takes them."""
    from ..storage.dtypes import DTYPES

    dtype = None if options.dtype is None else DTYPES[options.dtype]
    return {"dtype": dtype, "low_ram": options.low_ram, "dense_rows": options.dense_rows}


def run(options: argparse.Namespace) -> None:
    """make a clip from a prompt, a first frame, a voice"""
    from ..outputs import metadata
    from ..pipeline.preview import PreviewFile
    from ..pipeline.writer import Output

    preview = None if options.preview is None else PreviewFile(options.preview)
    source = options.config_from_metadata
    before = {} if source is None else metadata.read(source)
    arguments = _arguments(options, before)
    output = Output(options.output, settings=options.metadata, latents=options.save_latents)

    from ..pipeline.happyhorse import HappyHorse

    model = options.model
    if model is None:
        model = model_of(before) if before else "tiny"
    horse = HappyHorse.load(model, **machine(options))
    kept = {name: value for name, value in before.items() if getattr(options, name, None) is None}
    if before.get("variant", horse.variant) != horse.variant:
        said = {name for name in OF_VARIANT if getattr(options, name) is not None}
        arguments = {k: v for k, v in arguments.items() if k not in OF_VARIANT or k in said}
    if options.dry_run:
        return _show_plan(horse, arguments, options.command)
    for seed in options.seed or [arguments.get("seed")]:
        started = time.monotonic()
        bars = Bars()
        states = horse.stream(
            **arguments | {"seed": seed},
            force=options.force,
            keep_frames=False,
            preview=options.preview is not None,
            on_block=bars.on_block,
        )
        try:
            with closing(states):
                shown = previewing(noting(kept, states), preview)
                complete = _run(horse, states, bars.over(shown), output, options)
            say_saved(output.save(), started)
        except BaseException:
            output.drop()
            _say_what_is_kept(output)
            raise
        if output.not_kept is not None:
            raise output.not_kept
        if not complete:
            stopped = output.settings.get("stopped")
            raise KeyboardInterrupt("the clip is " + (f"what there was {stopped}" if stopped else "whole"))


def model_of(settings: dict[str, Any]) -> str:
    """The model that a clip names. A clip may come from anybody: it makes nothing be fetched, and no folder
    be opened. Raises RequestError where it would."""
    from ..storage import hub

    model = str(settings["model"])
    if not hub.is_here_as(model):
        raise RequestError(f"the clip was made with the model {model}: say --model {model} if you trust it.")
    say(f"The model is the clip's: {model}")
    return model


def _show_plan(horse: HappyHorse, arguments: dict[str, Any], command: str) -> None:
    plan = horse.plan(**arguments, keep_frames=False)
    print(plan.table())
    if not plan.fits:
        print(worded(horse.refusal(plan), command))


def _arguments(options: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    """What is said on the command line over what an earlier clip was made with."""
    from ..inputs.request import Upscaling
    from ..outputs import metadata

    said = vars(options) | {"prompt": _prompt(options), "seed": options.seed[0] if options.seed else None}
    names = "image", "audio", "ratio", *metadata.SETTINGS
    given = {name: said[name] for name in names if said.get(name) is not None}
    left_out = {name for name, value in given.items() if value is NONE}
    given = {name: value for name, value in given.items() if value is not NONE}
    changed = [name for name in given if not _is_same(name, given[name], before)]
    followed = {follower for name in changed for follower in FOLLOWS.get(name, ())} | left_out
    if "upscale" in left_out:
        followed |= Upscaling.__annotations__.keys()
    before = {name: value for name, value in before.items() if name not in followed}
    for name in {"image", "audio"} & before.keys() - given.keys():
        if before[name] is not None:
            raise RequestError(
                f"the clip was made with --{name}{_said_path(before[name])}: say where that is now, or leave "
                f"it out with --no-{name}."
            )
    inputs = {name: value for name, value in given.items() if name in ("image", "audio", "ratio")}
    arguments = metadata.arguments(before | given) | inputs if before else given
    if "prompt" not in arguments:
        raise RequestError("say what should be seen and heard: give a prompt.")
    return arguments


def _is_same(name: str, given: Any, before: dict[str, Any]) -> bool:
    """Whether a picture or recording is the one that the clip was made with, which its size may follow."""
    from ..inputs.picture import digest, open_picture
    from ..inputs.recording import open_recording

    source = before.get(name)
    if name not in ("image", "audio") or not isinstance(source, dict):
        return False
    found = digest(open_picture(given)) if name == "image" else open_recording(given).digest
    return bool(found == source.get("sha256"))


def _said_path(source: Any) -> str:
    path = source.get("path") if isinstance(source, dict) else None
    return f" {path[:200]}" if isinstance(path, str) else ""


def _prompt(options: argparse.Namespace) -> str | Prompt | None:
    from ..inputs.prompts import Line, Prompt

    text = options.words if options.prompt is None else options.prompt
    if "-" in (text, options.prompt_file):
        if sys.stdin is None:
            raise RequestError("standard input is closed: give the prompt in words.")
        text = _read_text(sys.stdin.buffer.read(LARGEST_PROMPT + 1), "standard input")
    elif options.prompt_file is not None:
        text = _prompt_file(expanded(options.prompt_file))
    if options.dialogue is None and options.background_sound is None:
        return text
    if text is None:
        raise RequestError("--dialogue and --background-sound need the prompt that they belong to.")
    return Prompt(text, [Line.parse(line) for line in options.dialogue or ()], options.background_sound)


def _prompt_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return _read_text(file.read(LARGEST_PROMPT + 1), str(path))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}.") from error


def _read_text(data: bytes, where: str) -> str:
    if len(data) > LARGEST_PROMPT:
        raise RequestError(f"{where} is too long for a prompt.")
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise RequestError(f"{where} is no text: write it in UTF-8.") from error


def _say_what_is_kept(output: Output) -> None:
    for path, upscale in list(output.kept.items())[-1:]:
        command = f"upscale --to {upscale}" if upscale else "decode"
        say(f"The latents are kept: happyhorse {command} {path}")


def _run(
    horse: HappyHorse,
    states: States[State],
    shown: Iterator[State],
    output: Output,
    options: argparse.Namespace,
) -> bool:
    """Runs to the end, or as far as it gets before it is stopped; says whether it was the end. `shown` are
    the run's `states` on their way to the person."""
    latents: Latents | None = None
    try:
        for state in shown:
            latents = state.latents or latents
            output.take(state)
        return True
    except KeyboardInterrupt:
        if not options.keep_stopped or latents is None:
            raise
    say("Stopping: what there is will be decoded. Stop once more to drop it.")
    states.close()  # nothing of it stays in memory
    output.drop()
    output.keep(latents)
    bars = Bars()
    decoded = horse.finish(latents, force=options.force, keep_frames=False, on_block=bars.on_block)
    for state in bars.over(decoded):
        output.take(state)
    return False


def previewing(states: Iterable[State], file: PreviewFile | None) -> Generator[State]:
    """Pass the states on, and show in the file what they will look like."""
    for state in states:
        if file is not None and state.preview is not None:
            file.write(state.preview)
        yield state


def noting(before: dict[str, Any], states: Iterable[State]) -> Generator[State]:
    """Passes the states on, and says first what the run will take, and why it will not lead to the clip that
    was there before."""
    from ..outputs import metadata

    planned = False
    for state in states:
        if not planned and state.plan is not None:
            say(str(state.plan))
        planned = True
        if before and (changes := metadata.differences(before, state.settings)):
            say(f"Note: this will not be the same clip: {', '.join(changes)}.")
        before = {}
        yield state
