"""A model and what it can do: make clips, or each step of that by itself."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Unpack, cast

import mlx.core as mx

from ..diffusion.sampling import Draw
from ..errors import DoesNotFit, RequestError
from ..geometry import FPS
from ..inputs.picture import Picture, digest, open_picture
from ..inputs.prompts import NEGATIVE_PROMPT, Prompt, load_tokenizer
from ..inputs.recording import Sound, open_recording
from ..inputs.request import Request, Settings, Upscaling, follow_inputs
from ..models.blocks import OnBlock
from ..models.transformer import Transformer, TransformerConfig
from ..notes import note
from ..outputs import metadata
from ..outputs.clip import Clip
from ..outputs.latents import Latents
from ..planning.plan import Inputs, Plan, Planner
from ..planning.suggestions import refusal
from ..runtime.runs import States, Worker
from ..storage import hub, weights
from ..storage.dtypes import DTYPES
from ..storage.snapshots import OnBytes
from . import text_cache
from .progress import observed
from .run import BEFORE_UPSCALING, Run, Stages, decode
from .stages import Networks
from .state import State

DECODING = ["video_decoder", "audio_vae"]


class Hooks(NamedTuple):
    """What a caller has a say in, or looks at, while a run lasts."""

    draw: Draw | None
    on_block: OnBlock | None
    preview: bool


class HappyHorse(Networks):
    """A model folder, ready to make clips. Networks are loaded when a stage needs them."""

    @classmethod
    def load(
        cls,
        model: str | Path = "tiny",
        dtype: mx.Dtype | None = None,
        low_ram: bool | None = None,
        dense_rows: float | None = None,
        on_fetch: OnBytes | None = None,
    ) -> HappyHorse:
        """Opens a model by name, Hub repo or folder. Raises RequestError if there is no such model.

        `dtype` replaces what the transformer's large matrices are computed in, say fp16 for bf16. With
        `low_ram` they are read anew from the disk for every step; None does so where they do not fit. From
        `dense_rows` tokens on quantized matrices are expanded before they are multiplied: None is as the
        chip likes it. `on_fetch(done, total)` is told of the bytes that are fetched of a Hub repo, now and by
        later runs, a few times a second; it ends that by raising, and the files that are whole are kept."""
        if not isinstance(model, str | Path):
            raise RequestError(f"a model is a name, a Hub repo or a folder, not {model!r}.")
        if dtype is not None and not (isinstance(dtype, mx.Dtype) and dtype in DTYPES.values()):
            raise RequestError(f"dtype is one of {', '.join(map(str, DTYPES.values()))}, not {dtype!r}.")
        if dense_rows is not None and not dense_rows >= 1:
            raise RequestError(f"dense_rows is a number of tokens from 1, not {dense_rows!r}.")
        return cls(hub.find(model, on_fetch), str(model), dtype, low_ram, dense_rows, on_fetch)

    def generate(
        self,
        prompt: str | Prompt,
        *,
        image: Picture | None = None,
        audio: Sound | None = None,
        draw: Draw | None = None,
        force: bool = False,
        on_progress: Callable[[State], None] | None = None,
        on_block: OnBlock | None = None,
        **settings: Unpack[Settings],
    ) -> Clip:
        """Makes a clip, as `stream` does; `on_progress` is shown every state on the way."""
        states = self.stream(
            prompt, image=image, audio=audio, draw=draw, force=force, on_block=on_block, **settings
        )
        return _last_clip(states, on_progress)

    def plan(
        self,
        prompt: str | Prompt,
        *,
        image: Picture | None = None,
        audio: Sound | None = None,
        keep_frames: bool = True,
        **settings: Unpack[Settings],
    ) -> Plan:
        """What `stream` would take on this machine, with the same arguments but `draw` and `force`: memory
        and seconds, stage by stage. Nothing is loaded. Raises RequestError for what cannot be done."""
        picture = None if image is None else open_picture(image)
        recording = None if audio is None else open_recording(audio)
        request = self.request(prompt, **follow_inputs(settings, self.config["sampling"], picture, recording))
        inputs = Inputs(picture is not None, recording is not None, keep_frames=keep_frames)
        return self._plan(request, inputs)

    def _plan(self, request: Request, inputs: Inputs) -> Plan:
        """`inputs` without the prompts, which are looked for among those that are known."""
        texts = [request.prompt, *request.avoided.values()]
        for name in DECODING if inputs.begin == "sound" else _needed(request, inputs.picture):
            self._check_held(name)
            weights.read_json(self.folder / name / "config.json")
        if inputs.begin != "sound":
            new = sorted(set(texts) - text_cache.known(texts, self._encoder))
            inputs = replace(inputs, texts=tuple(new))
        return self._planner.plan(request, inputs, self.low_ram)

    @property
    def _planner(self) -> Planner:
        return Planner(self.folder, self.dtype, self.machine)

    def stream(
        self,
        prompt: str | Prompt,
        *,
        image: Picture | None = None,
        audio: Sound | None = None,
        draw: Draw | None = None,
        force: bool = False,
        keep_frames: bool = True,
        preview: bool = False,
        on_block: OnBlock | None = None,
        **settings: Unpack[Settings],
    ) -> States[State]:
        """Makes a clip step by step; see `Settings` for what can be set.

        `image` is the first frame: a path, a PIL image or a uint8 array (height, width, 3). Unless width
        or height are given, the clip takes its shape. `audio` is a recording that the clip is made to and
        carries: a path, or samples (n,) or (n, 2) with their rate; unless seconds are given, the clip is as
        long. `draw` stands in for the seed's random numbers: a function from a shape to standard normal
        noise, called for the recording's latents or the audio's start, for the video's start, by the steps
        in their order, and for the upscaler's start. Without `keep_frames` the last state holds no clip, and
        memory does not grow with its length: sound and frames are in the states that they come with. With
        `preview` the states of "denoise" and "upscale" hold a small picture of what comes.

        Any thread may take the next state. `on_block` is called, by the thread that waits for a state, after
        every block of a network: with the blocks that are done of this step, and all of it. `stop` of what
        is returned ends the run at the next block, from whichever thread. One run at a time is under way:
        another waits for its end.

        Raises RequestError at once for what cannot be done, DoesNotFit if it takes more memory than there
        is, unless with `force`, ModelError if the model's files are damaged. On the way it raises
        OutOfResources if the machine gives up, and BrokenRun if what was made makes no sense.
        """
        picture = None if image is None else open_picture(image)
        recording = None if audio is None else open_recording(audio)
        defaults = self.config["sampling"]
        request = self.request(prompt, **follow_inputs(settings, defaults, picture, recording))
        needed = _needed(request, picture is not None)
        plan = self._plan(
            request, Inputs(picture is not None, recording is not None, keep_frames=keep_frames)
        )
        if not force:
            self._check_fit(plan)
        self._check_components(needed)
        if notice := self.config.get("notice"):
            note(f"{self.name}: {notice}")
        about = self._describe(request, needed) | {
            "image": None if picture is None else metadata.source(image, digest(picture)),
            "audio": None if recording is None else metadata.source(audio, recording.digest),
            "seed": request.seed if draw is None else None,
        }
        hooks = Hooks(draw, on_block, preview)
        return self._run(request, about, plan, hooks, lambda run: run.generate(picture, recording))

    def _run(
        self,
        request: Request,
        about: dict[str, Any],
        plan: Plan,
        hooks: Hooks,
        begin: Callable[[Run], Stages[None]],
    ) -> States[State]:
        """The run's states; its own arrays are made on its thread, the user's noise on the user's."""

        def start(worker: Worker) -> Generator[State]:
            draw = None if hooks.draw is None else partial(worker.call, _evaluated(hooks.draw))
            run = Run(self, request, about, draw, plan, worker.on_block, hooks.preview)
            return observed(begin(run), plan)

        return States(start, hooks.on_block)

    def finish(
        self,
        latents: Latents,
        *,
        draw: Draw | None = None,
        force: bool = False,
        keep_frames: bool = True,
        preview: bool = False,
        on_block: OnBlock | None = None,
        **settings: Unpack[Upscaling],
    ) -> States[State]:
        """Makes the clip of latents that were kept, step by step. With `upscale` among the settings they
        are upscaled first, with the same result as in a run that did so at once.

        Raises what `stream` raises, and RequestError for latents of another model."""
        if unknown := settings.keys() - Upscaling.__annotations__.keys():
            raise TypeError(f"finish takes no {min(unknown)}: the latents were made with their own.")
        mx.eval(latents.video, latents.audio)  # on this thread, where they were made
        channels = latents.video.shape[-1], latents.audio.shape[-1]
        if channels != self.latent_channels:
            raise RequestError(f"these latents are not {self.name}'s: they have {channels} channels.")
        if settings.get("upscale") is None:
            if given := [name for name, value in settings.items() if value is not None]:
                raise RequestError(f"{given[0]} does nothing without upscale, which says to what size.")
            self._check_components(DECODING)
            plan = self._plan_decoding(latents, keep_frames)
            if not force:
                self._check_fit(plan)
            return States(
                lambda worker: observed(decode(self, latents, keep_frames, worker.on_block), plan), on_block
            )
        if size := latents.settings.get("upscale"):
            raise RequestError(f"these latents were upscaled to {size} already.")
        asked: dict[str, Any] = metadata.request_settings(latents.settings) | dict(settings)
        request = self._complete(asked.pop("prompt"), cast(Settings, asked))
        if latents.video.shape[:3] != request.latent_shapes[0] or len(latents.audio) != request.sounds:
            raise RequestError("these latents do not have the size that their settings speak of.")
        needed = _needed(request, latents.picture is not None)
        picture, recording = latents.picture is not None, latents.soundtrack is not None
        plan = self._plan(request, Inputs(picture, recording, begin="upscale", keep_frames=keep_frames))
        if not force:
            self._check_fit(plan)
        self._check_components(needed)
        about = latents.settings | self._describe(request, needed)
        if about.get("stopped") == BEFORE_UPSCALING:
            del about["stopped"]
        about["weights"] |= {"transformer": latents.settings["weights"].get("transformer")}
        if draw is not None or latents.settings.get("seed") is None:
            about["seed"] = None
        hooks = Hooks(draw, on_block, preview)
        return self._run(request, about, plan, hooks, lambda run: run.upscale(latents))

    def request(self, prompt: str | Prompt, **settings: Unpack[Settings]) -> Request:
        """The settings with this model's defaults for what is left open. Raises RequestError."""
        request = self._complete(prompt, settings)
        if self.distilled and request.guidance != 1:
            raise RequestError(f"{self.name} is distilled, it works without guidance: leave it out, or at 1.")
        negative = settings.get("negative_prompt")
        if negative not in (None, NEGATIVE_PROMPT, *request.avoided.values()):
            why = "is distilled and has no guidance" if self.distilled else "runs at guidance 1"
            note(f"the negative prompt does nothing: {self.name} {why}.")
        return request

    def _complete(self, prompt: str | Prompt, settings: Settings) -> Request:
        request = Request.complete(prompt, settings, self.config["sampling"])
        if request.upscale is not None:
            self._check_held(f"upscaler_{request.upscale}")
        if request.upscale and request.upscale_negative_prompt and request.upscale_guidance == 1:
            note("upscale_negative_prompt does nothing: upscale_guidance is 1.")
        return request

    def _plan_decoding(self, latents: Latents, keep_frames: bool) -> Plan:
        _, rows, columns, _ = latents.video.shape
        request = Request.complete("decoded", Settings(), self.config["sampling"])
        seconds = (len(latents.audio) - 1) / FPS  # any size: who made them had no limits to keep to
        request = replace(request, seconds=seconds, width=16 * columns, height=16 * rows)
        recording = latents.soundtrack is not None
        return self._plan(request, Inputs(recording=recording, begin="sound", keep_frames=keep_frames))

    def _check_fit(self, plan: Plan) -> None:
        if not plan.fits:
            raise self.refusal(plan)

    def refusal(self, plan: Plan) -> DoesNotFit:
        """Why a plan does not fit, and the smallest change that would."""
        return refusal(plan, self._planner, self.low_ram)

    def _describe(self, request: Request, components: list[str]) -> dict[str, Any]:
        """What the clip will say of itself, beside its pictures and sounds."""
        prints = {name: weights.fingerprint(self.folder / name) for name in components}
        dtype = None if self.dtype is None else str(self.dtype).rpartition(".")[2]
        model = {"model": self.name, "variant": self.variant, "dtype": dtype, "weights": prints}
        about = metadata.envelope() | asdict(request) | model
        if request.negative_prompt == NEGATIVE_PROMPT and NEGATIVE_PROMPT not in request.avoided.values():
            about["negative_prompt"] = None
        if request.upscale is None:
            about |= dict.fromkeys(Upscaling.__annotations__)
        return about

    def _check_components(self, names: list[str]) -> None:
        """Fetches and opens every file that will be needed, before hours go into the first of them."""
        for name in names:
            self._check_held(name)
        hub.fetch(self.folder, names, self.on_fetch)
        networks = {name: self._load(name) for name in names}
        if encoder := networks.get("text_encoder"):
            load_tokenizer(self._tokenizer_file)
            width = encoder.config.hidden_size
        base = networks.get("transformer")
        for name, model in networks.items():
            if isinstance(model, Transformer) and base is not None:
                needs, has = _interface(model.config), (*_interface(base.config)[:2], width)
                if needs != has:
                    raise RequestError(
                        f"the {name} does not fit this model: it takes video, audio and text of "
                        f"{needs} channels, not {has}."
                    )


def _last_clip(states: States[State], on_progress: Callable[[State], None] | None) -> Clip:
    with closing(states):
        for state in states:
            if on_progress is not None:
                on_progress(state)
    assert state.clip is not None
    return state.clip


def _evaluated(draw: Draw) -> Draw:
    """The same draws, as arrays that any thread can use."""

    def drawn(shape: tuple[int, ...]) -> mx.array:
        noise = draw(shape)
        mx.eval(noise)
        return noise

    return drawn


def _needed(request: Request, picture: bool) -> list[str]:
    """The components of a run."""
    names = ["text_encoder", "transformer", *DECODING]
    if picture:
        names.append("video_encoder")
    if request.upscale is not None:
        names.append(f"upscaler_{request.upscale}")
    return names


def _interface(config: TransformerConfig) -> tuple[int, int, int]:
    return config.video_channels, config.audio_channels, config.text_channels
