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
from .hints import in_flags
from .terminal import Bars, say, say_saved

if TYPE_CHECKING:
    from ..inputs.prompts import Prompt
    from ..outputs.latents import Latents
    from ..pipeline.happyhorse import HappyHorse
    from ..pipeline.preview import PreviewFile
    from ..pipeline.state import State
    from ..pipeline.writer import ClipWriter
    from ..runtime.runs import States

LARGEST_PROMPT = 1_000_000  # bytes
NONE = object()  # --no-image and the like: leave out what the repeated clip had
# Settings of the repeated clip that depend on one that is replaced.
DEPENDENT = {
    "image": ("width", "height", "upscale_size"),
    "audio": ("seconds",),
    "width": ("upscale_size",),
    "height": ("upscale_size",),
    "ratio": ("width", "height", "upscale_size"),
    "upscale": ("upscale_size",),
}
OF_VARIANT = ("steps", "guidance")  # differ between base and distilled models


def add(parser: argparse.ArgumentParser) -> None:
    _add_prompt(parser.add_argument_group("prompt"))
    parser.add_argument("--model", "-m", help="a model's name, a Hub repo or a folder (default: tiny)")
    _add_clip(
        parser.add_argument_group(
            "clip", "defaults: the image's shape, the recording's length, then the model's own values"
        )
    )
    _add_upscaling(parser.add_argument_group("upscaling"))
    add_machine(parser)
    parser.add_argument("--dry-run", action="store_true", help="show the plan, stage by stage, and exit")
    _add_files(parser.add_argument_group("files"))


def _add_prompt(group: Any) -> None:
    prompt = group.add_mutually_exclusive_group()
    prompt.add_argument("words", nargs="?", metavar="prompt", help="the prompt; - reads standard input")
    prompt.add_argument("--prompt", help="the prompt, as an option")
    prompt.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a text file")
    group.add_argument(
        "--dialogue",
        action="append",
        metavar="LINE",
        help="a line of dialogue, 'speaker, language: text'; repeat it for every line",
    )
    group.add_argument("--background-sound", metavar="SOUND", help="what is heard besides the dialogue")
    group.add_argument(
        "--negative-prompt",
        metavar="PROMPT",
        help="what to steer away from, where guidance is above 1 (default: common flaws)",
    )
    group.add_argument("--image", metavar="FILE", help="the first frame; the clip takes its shape")
    group.add_argument("--audio", metavar="FILE", help="a recording to lip-sync; the clip takes its length")


def _add_clip(group: Any) -> None:
    group.add_argument("--seconds", type=float, help="length, 0.2 to 60")
    group.add_argument("--width", type=int, help="in pixels, rounded down to a multiple of 32")
    group.add_argument("--height", type=int, help="in pixels, rounded down to a multiple of 32")
    group.add_argument("--ratio", help="16:9, 9:16, 1:1, 4:3 or 3:4, in place of width and height")
    group.add_argument("--steps", type=int, help="number of denoising steps")
    group.add_argument("--guidance", type=float, help="guidance scale; 1 is off, as distilled models need")
    group.add_argument(
        "--seed", type=_seed, nargs="+", help="one clip per seed; the same seed makes the same clip (random)"
    )


def _add_upscaling(group: Any) -> None:
    group.add_argument("--upscale", choices=("540p", "1080p"), help="upscale the clip to this size")
    group.add_argument(
        "--upscale-size",
        type=size,
        metavar="WIDTHxHEIGHT",
        help="the exact size (default: the largest of the clip's shape)",
    )
    group.add_argument("--upscale-steps", type=int, metavar="STEPS", help="number of steps (default: 5)")
    group.add_argument(
        "--upscale-guidance", type=float, metavar="SCALE", help="guidance scale; 1 is off (default: 1)"
    )
    group.add_argument(
        "--upscale-negative-prompt", metavar="PROMPT", help="negative prompt (default: --negative-prompt)"
    )
    add_align_corners(group)


def _add_files(group: Any) -> None:
    group.add_argument(
        "--output",
        "-o",
        default="clip.mp4",
        help="the file to write; {seed} stands for the seed, and nothing is overwritten: clip_1.mp4 follows "
        "clip.mp4 (default: clip.mp4)",
    )
    add_preview(group)
    group.add_argument("--metadata", action="store_true", help="also save the settings, as JSON")
    group.add_argument("--save-latents", action="store_true", help="also save the latents, to upscale later")
    group.add_argument(
        "--keep-stopped", action="store_true", help="on Ctrl-C, decode and save what is there so far"
    )
    group.add_argument(
        "--config-from-metadata",
        metavar="CLIP",
        help="repeat a clip from its mp4 or JSON file; other options override its settings",
    )
    for name in ("image", "audio", "upscale"):
        group.add_argument(
            f"--no-{name}", dest=name, action="store_const", const=NONE, help=f"repeat it without {name}"
        )


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        message = f"{text!r} is not a number; put the prompt before --seed, or into --prompt"
        raise argparse.ArgumentTypeError(message) from error


def size(text: str) -> tuple[int, int]:
    """Parse a size like 960x544."""
    width, _, height = text.replace("×", "x").partition("x")
    try:
        return int(width), int(height)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: write it like 960x544") from error


def add_align_corners(parser: Any) -> None:
    parser.add_argument(
        "--align-corners",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="interpolate latents with aligned corners, as the reference does; --no-… is reported to ghost "
        "less (default: on)",
    )


def add_preview(parser: Any) -> None:
    parser.add_argument(
        "--preview",
        metavar="FILE",
        help="update a preview of the clip at every step: .webp (animated), .png or .jpg",
    )


def add_force(parser: Any) -> None:
    parser.add_argument("--force", action="store_true", help="run although the plan does not fit in memory")


def add_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--low-ram",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="stream the transformer's weights from disk at every step (default: where they do not fit)",
    )
    add_force(group)
    group.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="compute dtype (default: as the weights are stored); float16 suits M1 and M2",
    )
    group.add_argument(
        "--dense-rows",
        type=int,
        metavar="TOKENS",
        help="number of tokens from which quantized matrices are dequantized first (default: the chip's)",
    )


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Return the machine options as HappyHorse.load takes them."""
    from ..storage.dtypes import DTYPES

    dtype = None if options.dtype is None else DTYPES[options.dtype]
    return {"dtype": dtype, "low_ram": options.low_ram, "dense_rows": options.dense_rows}


def run(options: argparse.Namespace) -> None:
    """make a clip from a prompt, an image, a recording"""
    from ..outputs import metadata
    from ..pipeline.preview import PreviewFile
    from ..pipeline.writer import ClipWriter

    preview = None if options.preview is None else PreviewFile(options.preview)
    source = options.config_from_metadata
    before = {} if source is None else metadata.read(source)
    arguments = _arguments(options, before)
    writer = ClipWriter(options.output, settings=options.metadata, latents=options.save_latents)

    horse, arguments = _load_model(options, before, arguments)
    if options.dry_run:
        return _show_plan(horse, arguments, options.command)
    repeated = {name: value for name, value in before.items() if getattr(options, name, None) is None}
    for seed in options.seed or [arguments.get("seed")]:
        _make_clip(horse, arguments | {"seed": seed}, repeated, writer, preview, options)


def _load_model(
    options: argparse.Namespace, before: dict[str, Any], arguments: dict[str, Any]
) -> tuple[HappyHorse, dict[str, Any]]:
    """Return the model, and the arguments without those of another variant."""
    from ..pipeline.happyhorse import HappyHorse

    model = options.model
    if model is None:
        model = model_of(before) if before else "tiny"
    horse = HappyHorse.load(model, **machine(options))
    if before.get("variant", horse.variant) != horse.variant:
        given = {name for name in OF_VARIANT if getattr(options, name) is not None}
        arguments = {k: v for k, v in arguments.items() if k not in OF_VARIANT or k in given}
    return horse, arguments


def _make_clip(
    horse: HappyHorse,
    arguments: dict[str, Any],
    repeated: dict[str, Any],
    writer: ClipWriter,
    preview: PreviewFile | None,
    options: argparse.Namespace,
) -> None:
    started, bars = time.monotonic(), Bars()
    states = horse.stream(
        **arguments,
        force=options.force,
        keep_frames=False,
        preview=preview is not None,
        on_block=bars.on_block,
    )
    try:
        with closing(states):
            shown = bars.over(previewing(noting(repeated, states), preview))
            complete = _write(horse, states, shown, writer, options)
        say_saved(writer.save(), started)
    except BaseException:
        writer.discard()
        _say_what_is_kept(writer)
        raise
    if writer.not_kept is not None:
        raise writer.not_kept
    if not complete:
        stopped = writer.settings.get("stopped")
        raise KeyboardInterrupt(
            f"the clip was saved as it was {stopped}" if stopped else "the clip is complete"
        )


def model_of(settings: dict[str, Any]) -> str:
    """Return the model that a clip names. A clip may come from anybody: it must not cause a download, nor
    open a folder. Raises RequestError where it would."""
    from ..storage import hub

    model = str(settings["model"])
    if not hub.is_installed(model):
        raise RequestError(f"the clip was made with the model {model}: pass --model {model} if you trust it.")
    say(f"Model: {model}, as in the clip")
    return model


def _show_plan(horse: HappyHorse, arguments: dict[str, Any], command: str) -> None:
    plan = horse.plan(**arguments, keep_frames=False)
    print(plan.table())
    if not plan.fits:
        print(in_flags(horse.refusal(plan), command))


def _arguments(options: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    """Return the command line's settings over those of the clip that is repeated."""
    from ..inputs.request import Upscaling
    from ..outputs import metadata

    values = vars(options) | {"prompt": _prompt(options), "seed": options.seed[0] if options.seed else None}
    names = "image", "audio", "ratio", *metadata.SETTINGS
    given = {name: values[name] for name in names if values.get(name) is not None}
    left_out = {name for name, value in given.items() if value is NONE}
    given = {name: value for name, value in given.items() if value is not NONE}
    changed = [name for name in given if not _is_same(name, given[name], before)]
    dropped = {other for name in changed for other in DEPENDENT.get(name, ())} | left_out
    if "upscale" in left_out:
        dropped |= Upscaling.__annotations__.keys()
    before = {name: value for name, value in before.items() if name not in dropped}
    for name in {"image", "audio"} & before.keys() - given.keys():
        if before[name] is not None:
            raise RequestError(
                f"the clip was made with --{name}{_source_path(before[name])}: pass --{name} with the file, "
                f"or --no-{name} to repeat it without."
            )
    inputs = {name: value for name, value in given.items() if name in ("image", "audio", "ratio")}
    arguments = metadata.arguments(before | given) | inputs if before else given
    if "prompt" not in arguments:
        raise RequestError("a prompt is required.")
    return arguments


def _is_same(name: str, given: Any, before: dict[str, Any]) -> bool:
    """Return whether a picture or recording is the one that the clip was made with."""
    from ..inputs.picture import digest, open_picture
    from ..inputs.recording import open_recording

    source = before.get(name)
    if name not in ("image", "audio") or not isinstance(source, dict):
        return False
    found = digest(open_picture(given)) if name == "image" else open_recording(given).digest
    return bool(found == source.get("sha256"))


def _source_path(source: Any) -> str:
    path = source.get("path") if isinstance(source, dict) else None
    return f" {path[:200]}" if isinstance(path, str) else ""


def _prompt(options: argparse.Namespace) -> str | Prompt | None:
    from ..inputs.prompts import Line, Prompt

    text = options.words if options.prompt is None else options.prompt
    if "-" in (text, options.prompt_file):
        if sys.stdin is None:
            raise RequestError("standard input is closed: give the prompt as an argument.")
        text = _read_text(sys.stdin.buffer.read(LARGEST_PROMPT + 1), "standard input")
    elif options.prompt_file is not None:
        text = _prompt_file(expanded(options.prompt_file))
    if options.dialogue is None and options.background_sound is None:
        return text
    if text is None:
        raise RequestError("--dialogue and --background-sound need a prompt.")
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
        raise RequestError(f"{where} is not UTF-8 text.") from error


def _say_what_is_kept(writer: ClipWriter) -> None:
    for path, upscale in list(writer.kept.items())[-1:]:
        command = f"upscale --to {upscale}" if upscale else "decode"
        say(f"The latents were saved. Continue with: happyhorse {command} {path}")


def _write(
    horse: HappyHorse,
    states: States[State],
    shown: Iterator[State],
    writer: ClipWriter,
    options: argparse.Namespace,
) -> bool:
    """Write the clip; return False if it was stopped and saved as it was. `shown` are the run's `states`, as
    they pass the progress bar."""
    latents: Latents | None = None
    try:
        for state in shown:
            latents = state.latents or latents
            writer.add(state)
        return True
    except KeyboardInterrupt:
        if not options.keep_stopped or latents is None:
            raise
    say("Stopping: decoding what is there so far. Press Ctrl-C again to discard it.")
    states.close()  # frees its memory
    writer.discard()
    writer.keep(latents)
    bars = Bars()
    decoded = horse.finish(latents, force=options.force, keep_frames=False, on_block=bars.on_block)
    for state in bars.over(decoded):
        writer.add(state)
    return False


def previewing(states: Iterable[State], file: PreviewFile | None) -> Generator[State]:
    """Pass the states on and write their previews to the file."""
    for state in states:
        if file is not None and state.preview is not None:
            file.write(state.preview)
        yield state


def noting(before: dict[str, Any], states: Iterable[State]) -> Generator[State]:
    """Pass the states on; first show the plan, and why a repeated clip will differ from `before`."""
    from ..outputs import metadata

    planned = False
    for state in states:
        if not planned and state.plan is not None:
            say(str(state.plan))
        planned = True
        if before and (changes := metadata.differences(before, state.settings)):
            say(f"Note: the clip will differ: {', '.join(changes)}.")
        before = {}
        yield state
