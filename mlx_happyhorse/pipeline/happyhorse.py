"""A model: makes clips, or runs each stage by itself."""

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
from ..geometry import Geometry
from ..inputs.picture import Picture, digest, open_picture
from ..inputs.prompts import NEGATIVE_PROMPT, Prompt, load_tokenizer
from ..inputs.recording import AudioInput, open_recording
from ..inputs.request import Request, Settings, Upscaling, follow_inputs
from ..models.blocks import OnBlock
from ..models.transformer import Transformer, TransformerConfig
from ..notes import note
from ..outputs import metadata
from ..outputs.clip import Clip
from ..outputs.latents import Latents
from ..planning.plan import Plan
from ..planning.planner import Planner
from ..planning.stage import StageName
from ..planning.suggestions import refusal
from ..runtime.runs import States, Worker
from ..storage import hub, weights
from ..storage.dtypes import DTYPES
from ..storage.snapshots import OnBytes
from . import text_cache
from .order import Order
from .progress import observed
from .run import BEFORE_UPSCALING, Run
from .stages import Stages
from .state import State

OnProgress = Callable[[State], None]


class Hooks(NamedTuple):
    """A caller's functions that a run calls, and whether its states get a preview."""

    draw: Draw | None
    on_block: OnBlock | None
    preview: bool


class HappyHorse(Stages):
    """A model folder, ready to make clips. A network is loaded when its stage runs, and freed after it."""

    @classmethod
    def load(
        cls,
        model: str | Path = "tiny",
        dtype: mx.Dtype | None = None,
        low_ram: bool | None = None,
        dense_rows: float | None = None,
        on_fetch: OnBytes | None = None,
    ) -> HappyHorse:
        """Open a model by name, Hub repo or folder. Raises RequestError if there is no such model.

        Args:
            model: "tiny", the name of a downloaded model, "owner/name@revision" of the Hub, or a folder.
            dtype: Compute dtype of the transformers' large matrices, by default as they are stored; float16
                suits M1 and M2.
            low_ram: Stream the transformers' weights from disk at every step; None does so where they do not
                fit in memory.
            dense_rows: Number of tokens from which quantized matrices are dequantized before the product;
                None is the chip's own.
            on_fetch: Called with (bytes done, bytes in all) a few times a second while files of a Hub repo
                are downloaded, now or by later runs; what it raises ends the download.
        """
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
        audio: AudioInput | None = None,
        draw: Draw | None = None,
        force: bool = False,
        on_progress: OnProgress | None = None,
        on_block: OnBlock | None = None,
        **settings: Unpack[Settings],
    ) -> Clip:
        """Make a clip and return it.

        Args:
            prompt: A description of picture and sound, best in 150 to 200 English words, or a `Prompt`.
            image: The first frame: a path, a PIL image or a uint8 array (height, width, 3). The clip takes
                its shape unless width or height are given.
            audio: A recording that the clip is made to, and carries: a path, or (samples, sample_rate) with
                samples (n,) or (n, 2). The clip takes its length unless seconds are given.
            draw: Replaces the random numbers of the seed: a function from a shape to standard normal noise,
                called for the audio (or the recording's latents), the video, every step, the upscaler.
            force: Run although the plan does not fit in memory.
            on_progress: Called with every `State`.
            on_block: Called after every block of a network, with the blocks done and all of the step's.
            seconds: Length, 0.2 to 60.
            width, height: Pixels, rounded down to multiples of 32.
            ratio: "16:9", "9:16", "1:1", "4:3" or "3:4", in place of width and height.
            steps: Number of denoising steps.
            guidance: Guidance scale from 1, which is off; distilled models only take 1.
            negative_prompt: Steers away from it where the guidance scale is above 1.
            seed: The same seed makes the same clip on the same machine; random by default.
            upscale: "540p" or "1080p", by super-resolution.
            upscale_size: (width, height) to upscale to, by default what `upscale` allows in the clip's shape.
            upscale_steps, upscale_guidance, upscale_negative_prompt: Those of super-resolution.
            align_corners: Interpolate the latents with aligned corners, as the reference does (True); False
                is reported to ghost less.

        Settings that are None or left out take the model's defaults. Raises RequestError for what is
        impossible, DoesNotFit if there is too little memory, ModelError if the model is damaged, and during
        the run OutOfResources and BrokenRun.
        """
        states = self.stream(
            prompt, image=image, audio=audio, draw=draw, force=force, on_block=on_block, **settings
        )
        return _last_clip(states, on_progress)

    def plan(
        self,
        prompt: str | Prompt,
        *,
        image: Picture | None = None,
        audio: AudioInput | None = None,
        keep_frames: bool = True,
        **settings: Unpack[Settings],
    ) -> Plan:
        """Return the memory and seconds that `stream` would take on this machine, stage by stage.

        Takes the arguments of `stream`; nothing is loaded. Raises RequestError for what is impossible."""
        return self._plan(self._order(prompt, image, audio, keep_frames, settings))

    def stream(
        self,
        prompt: str | Prompt,
        *,
        image: Picture | None = None,
        audio: AudioInput | None = None,
        draw: Draw | None = None,
        force: bool = False,
        keep_frames: bool = True,
        preview: bool = False,
        on_block: OnBlock | None = None,
        **settings: Unpack[Settings],
    ) -> States[State]:
        """Make a clip step by step; return an iterator over the run's states. Arguments as for `generate`.

        Without `keep_frames` the last state has no clip, and memory does not grow with the frames: sound and
        frames are in the states in which they are decoded. With `preview` the states of "denoise" and
        "upscale" hold a small picture of the clip so far.

        Any thread may take the next state; `on_block` and `draw` are called by the thread that waits for it.
        `stop()` of the iterator ends the run at the next block, from any thread. One run at a time is active
        in a process: another waits for its end.

        Raises at once what `generate` raises before its run."""
        order = self._order(prompt, image, audio, keep_frames, settings)
        return self._start(order, Hooks(draw, on_block, preview), force)

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
        """Make the clip of kept latents, step by step; with `upscale` they are upscaled first.

        The clip is the same as in a run that did all at once. Raises what `stream` raises, and RequestError
        for latents of another model."""
        order = self._order_of_latents(latents, keep_frames, settings)
        return self._start(order, Hooks(draw, on_block, preview), force)

    def request(self, prompt: str | Prompt, **settings: Unpack[Settings]) -> Request:
        """Return the checked settings, with this model's defaults for those left out. Raises RequestError."""
        request = self._complete(prompt, settings)
        if self.distilled and request.guidance != 1:
            raise RequestError(f"{self.name} is distilled and has no guidance: leave guidance out, or at 1.")
        negative = settings.get("negative_prompt")
        if negative not in (None, NEGATIVE_PROMPT, *request.negative_prompts.values()):
            why = "is distilled and has no guidance" if self.distilled else "runs at guidance 1"
            note(f"the negative prompt has no effect: {self.name} {why}.")
        return request

    def refusal(self, plan: Plan) -> DoesNotFit:
        """Return the error for a plan that does not fit, with the smallest change that does."""
        return refusal(plan, self._planner, self.low_ram)

    def _order(
        self,
        prompt: str | Prompt,
        image: Picture | None,
        audio: AudioInput | None,
        keep_frames: bool,
        settings: Settings,
    ) -> Order:
        """Gather and check what a new clip is made from. Raises RequestError."""
        picture = None if image is None else open_picture(image)
        recording = None if audio is None else open_recording(audio)
        request = self.request(prompt, **follow_inputs(settings, self.config["sampling"], picture, recording))
        sources = {
            "image": None if picture is None else metadata.source(image, digest(picture)),
            "audio": None if recording is None else metadata.source(audio, recording.digest),
        }
        return Order(request, picture=picture, recording=recording, sources=sources, keep_frames=keep_frames)

    def _order_of_latents(self, latents: Latents, keep_frames: bool, settings: Upscaling) -> Order:
        """Gather and check what kept latents are finished to. Raises RequestError."""
        if unknown := settings.keys() - Upscaling.__annotations__.keys():
            raise TypeError(f"finish takes no {min(unknown)}: the latents were made with their own.")
        mx.eval(latents.video, latents.audio)  # on this thread, where they were made
        channels = latents.video.shape[-1], latents.audio.shape[-1]
        if channels != self.latent_channels:
            raise RequestError(f"these latents are not {self.name}'s: they have {channels} channels.")
        geometry = Geometry.of_latents(latents.video.shape, len(latents.audio))
        if settings.get("upscale") is None:
            if given := [name for name, value in settings.items() if value is not None]:
                raise RequestError(f"{given[0]} has no effect without upscale, which says to what size.")
            request = Request.complete("decoded", Settings(), self.config["sampling"])
            # Any size: latents from a script need not keep to the limits of a request.
            request = replace(request, seconds=geometry.seconds, width=geometry.width, height=geometry.height)
            return Order(request, StageName.SOUND, latents=latents, keep_frames=keep_frames)
        if size := latents.settings.get("upscale"):
            raise RequestError(f"these latents were upscaled to {size} already.")
        asked: dict[str, Any] = metadata.request_settings(latents.settings) | dict(settings)
        request = self._complete(asked.pop("prompt"), cast(Settings, asked))
        if geometry != request.geometry or latents.video.shape[0] != geometry.latent_frames:
            raise RequestError("these latents do not have the size that their settings say.")
        return Order(request, StageName.UPSCALE, latents=latents, keep_frames=keep_frames)

    def _complete(self, prompt: str | Prompt, settings: Settings) -> Request:
        request = Request.complete(prompt, settings, self.config["sampling"])
        if request.upscale is not None:
            self._check_held(f"upscaler_{request.upscale}")
        if request.upscale and request.upscale_negative_prompt and request.upscale_guidance == 1:
            note("upscale_negative_prompt has no effect: upscale_guidance is 1.")
        return request

    def _plan(self, order: Order) -> Plan:
        for name in order.components:
            self._check_held(name)
            weights.read_json(self.folder / name / "config.json")
        inputs = order.inputs
        if order.begin != StageName.SOUND:
            prompts = order.request.prompts
            new = sorted(set(prompts) - text_cache.known(prompts, self._encoder))
            inputs = replace(inputs, texts=tuple(new))
        return self._planner.plan(order.request, inputs, self.low_ram)

    @property
    def _planner(self) -> Planner:
        return Planner(self.folder, self.dtype, self.machine)

    def _start(self, order: Order, hooks: Hooks, force: bool) -> States[State]:
        """Check that an order can be carried out, and return its states.

        The run's arrays are made on the run's thread, the caller's noise on the caller's."""
        plan = self._plan(order)
        if not plan.fits and not force:
            raise self.refusal(plan)
        self._check_components(order.components)
        notice = self.config.get("notice")
        if notice and order.begin == StageName.TEXT:
            note(f"{self.name}: {notice}")
        settings = self._settings(order, hooks.draw is not None)

        def start(worker: Worker) -> Generator[State]:
            draw = None if hooks.draw is None else partial(worker.call, _evaluated(hooks.draw))
            run = Run(self, order, settings, draw, plan, worker.on_block, hooks.preview)
            return observed(run.states(), plan)

        return States(start, hooks.on_block)

    def _settings(self, order: Order, own_noise: bool) -> dict[str, Any]:
        """Return what the clip's metadata will say: its settings, model and versions."""
        if order.begin == StageName.SOUND:
            assert order.latents is not None
            return order.latents.settings
        request, kept = order.request, order.latents
        fingerprints = {name: weights.fingerprint(self.folder / name) for name in order.components}
        dtype = None if self.dtype is None else str(self.dtype).rpartition(".")[2]
        model = {"model": self.name, "variant": self.variant, "dtype": dtype, "weights": fingerprints}
        settings = metadata.envelope() | asdict(request) | model | order.sources
        if NEGATIVE_PROMPT == request.negative_prompt not in request.negative_prompts.values():
            settings["negative_prompt"] = None
        if request.upscale is None:
            settings |= dict.fromkeys(Upscaling.__annotations__)
        if kept is not None:
            settings = kept.settings | settings
            if settings.get("stopped") == BEFORE_UPSCALING:
                del settings["stopped"]
            settings["weights"] |= {"transformer": kept.settings["weights"].get("transformer")}
        if own_noise or (kept is not None and kept.settings.get("seed") is None):
            settings["seed"] = None
        return settings

    def _check_components(self, names: list[str]) -> None:
        """Fetch and open every file of the run, before hours go into its first stage."""
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


def _last_clip(states: States[State], on_progress: OnProgress | None) -> Clip:
    with closing(states):
        for state in states:
            if on_progress is not None:
                on_progress(state)
    assert state.clip is not None
    return state.clip


def _evaluated(draw: Draw) -> Draw:
    """Return the same draws, evaluated: any thread can use them."""

    def drawn(shape: tuple[int, ...]) -> mx.array:
        noise = draw(shape)
        mx.eval(noise)
        return noise

    return drawn


def _interface(config: TransformerConfig) -> tuple[int, int, int]:
    return config.video_channels, config.audio_channels, config.text_channels
