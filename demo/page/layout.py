"""The page: one sheet, two columns. What its parts do is in `events`."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from mlx_happyhorse.inputs.prompts import LANGUAGES as SPOKEN
from mlx_happyhorse.inputs.request import RATIOS

from . import stage
from .form import DRAFT
from .models import Model
from .styles import CLICKED
from .texts import LANGUAGES, Texts

LINES = 4  # of dialogue in the form


class Page:
    """Its components, by what they are called in `Texts`."""

    def __init__(self, model: Model, models: list[str], header: str):
        self.texts, self.model = Texts.of("en"), model
        self._top(header)
        self.first_run = gr.Column(visible=False, elem_id="first-run")
        with self.first_run:
            self._first_run(models)
        with gr.Row(elem_classes="hh-columns", equal_height=False):
            with gr.Column(scale=9, min_width=340):
                self._words()
                self._inputs()
                self._choices()
                self._order()
                self._advanced(models)
            with gr.Column(scale=10, min_width=340):
                self._stage()
        self._memory()

    def _top(self, header: str) -> None:
        with gr.Row(elem_classes="hh-top"):
            gr.HTML(header)
            self.language = gr.Dropdown(
                [(name, code) for code, name in LANGUAGES.items()],
                value="en",
                label=self.texts.language,
                show_label=False,
                container=False,
                scale=0,
                elem_id="language",
                filterable=False,
            )

    def _first_run(self, models: list[str]) -> None:
        self.welcome = gr.HTML()
        self.offer = gr.Radio([], label=self.texts.row_model, show_label=False, elem_id="offer")
        with gr.Row():
            self.get = gr.Button(
                self.texts.get.format(size=""), variant="primary", elem_id="download-weights"
            )
            self.cancel = gr.Button(self.texts.cancel, visible=False, elem_id="cancel-download")
            self.try_tiny = gr.Button(self.texts.try_tiny, elem_id="try-tiny")
        self.fetching = gr.HTML()
        with gr.Accordion(self.texts.have_them, open=False, elem_id="own-weights") as self.own_weights:
            self.own_folder = gr.Textbox(
                label=self.texts.have_them_info, max_lines=1, elem_id="own-folder", container=False
            )
            self.have_them = gr.Button(self.texts.use_folder, size="sm", elem_id="have-them")

    def _words(self) -> None:
        texts = self.texts
        self.prompt = gr.Textbox(
            label=texts.prompt,
            placeholder=texts.prompt_placeholder,
            lines=4,
            max_lines=10,
            elem_id="prompt",
            max_length=20_000,
        )
        self.format_help = gr.Button(texts.format_help, size="sm", elem_id="format-help")
        with gr.Column(visible=False, elem_id="format-form") as self.form:
            self.format_description = gr.Textbox(label=texts.format_description, lines=3)
            self.lines: list[Any] = []
            for _ in range(LINES):
                with gr.Row():
                    speaker = gr.Textbox(label=texts.format_speaker, max_lines=1, scale=3)
                    language = gr.Dropdown(
                        list(SPOKEN), value="English", label=texts.format_language, scale=2, filterable=False
                    )
                    says = gr.Textbox(label=texts.format_says, max_lines=1, scale=5)
                self.lines += [speaker, language, says]
            self.format_sound = gr.Textbox(label=texts.format_sound, max_lines=1)
            self.format_write = gr.Button(
                texts.format_write, variant="primary", size="sm", elem_id="format-write"
            )

    def _inputs(self) -> None:
        with gr.Accordion(self.texts.inputs, open=False, elem_id="inputs") as self.inputs, gr.Row():
            self.first_frame = gr.Image(
                label=self.texts.first_frame,
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                height=180,
                elem_id="first-frame",
                buttons=[],
            )
            self.voice = gr.Audio(
                label=self.texts.voice,
                type="filepath",
                sources=["upload", "microphone"],
                elem_id="voice",
                buttons=[],
            )

    def _choices(self) -> None:
        low, usual, high = self.model.lengths
        with gr.Group():
            with gr.Row():
                self.shape = gr.Radio(list(RATIOS), value="16:9", label=self.texts.shape, elem_id="shape")
                self.seconds = gr.Slider(
                    low, high, value=usual, step=1, label=self.texts.seconds, elem_id="seconds", buttons=[]
                )
            self.quality = gr.Radio(
                qualities(self.model, self.texts), value=DRAFT, label=self.texts.quality, elem_id="quality"
            )

    def _order(self) -> None:
        self.estimate = gr.HTML('<div id="estimate" data-state="none">…</div>')
        self.fit = gr.Button(visible=False, size="sm", elem_id="fit")
        with gr.Row():
            self.generate = gr.Button(self.texts.generate, variant="primary", scale=3, elem_id="generate")
            self.stop = gr.Button(
                self.texts.stop, variant="secondary", scale=1, elem_id="stop", interactive=False
            )

    def _advanced(self, models: list[str]) -> None:
        texts = self.texts
        with gr.Accordion(texts.advanced, open=False, elem_id="advanced") as self.advanced:
            self.models = gr.Dropdown(
                models, value=self.model.name, label=texts.model, elem_id="model", filterable=False
            )
            with gr.Row():
                self.seed = gr.Number(label=texts.seed, precision=0, minimum=0, elem_id="seed")
                self.lock_seed = gr.Checkbox(label=texts.lock_seed, elem_id="lock-seed")
                self.steps = gr.Number(
                    label=texts.steps,
                    precision=0,
                    minimum=1,
                    maximum=100,
                    value=self.model.sampling["steps"],
                    elem_id="steps",
                )
            with gr.Group(visible=self.model.guided) as self.guided:
                self.guidance = gr.Number(
                    label=texts.guidance, minimum=1, maximum=20, value=self.model.sampling["guidance"]
                )
                self.negative_prompt = gr.Textbox(label=texts.negative_prompt, lines=2)

    def _stage(self) -> None:
        texts = self.texts
        self.stage = gr.HTML(stage.idle(texts), elem_id="stage-frame")
        with gr.Row(visible=False, elem_classes="hh-actions") as self.actions:
            self.reuse = gr.Button(texts.reuse, size="sm", elem_id="reuse")
            self.again = gr.Button(texts.again, size="sm", elem_id="again")
            self.upscale = gr.Button(texts.upscale, size="sm", elem_id="upscale")
            self.copy_command = gr.Button(texts.copy_command, size="sm", elem_id="copy-command")
            self.copy_python = gr.Button(texts.copy_python, size="sm", elem_id="copy-python")
            self.download = gr.DownloadButton(texts.download, size="sm", elem_id="download")
        with gr.Row(visible=False, elem_id="waiting") as self.banner:
            self.waiting = gr.HTML()
            self.resume = gr.Button(texts.resume, size="sm", elem_id="resume", variant="primary")
            self.discard = gr.Button(texts.discard, size="sm", elem_id="discard")
        self.history = gr.HTML(elem_id="history", js_on_load=CLICKED)
        self.drop = gr.File(label=texts.drop, file_types=[".mp4"], height=130, elem_id="restore", buttons=[])
        self.told = gr.HTML(elem_id="told")

    def _memory(self) -> None:
        """What a tab remembers, and the clock that looks at its job."""
        self.job = gr.State("")
        self.kept_job = gr.BrowserState("", storage_key="happyhorse-job", secret="happyhorse")
        self.kept_language = gr.BrowserState("", storage_key="happyhorse-language", secret="happyhorse")
        self.extra = gr.State({})
        self.fix = gr.State({})
        self.shown = gr.State("")
        self.chosen = gr.State("")
        self.command_text = gr.Textbox(visible="hidden", label="command")
        self.script_text = gr.Textbox(visible="hidden", label="script")
        self.clock = gr.Timer(0.4, active=False)
        self.fetch_clock = gr.Timer(0.7, active=False)

    @property
    def fields(self) -> list[Any]:
        """The inputs of a `Form`, in its order."""
        return [
            self.prompt,
            self.first_frame,
            self.voice,
            self.shape,
            self.seconds,
            self.quality,
            self.models,
            self.seed,
            self.lock_seed,
            self.steps,
            self.guidance,
            self.negative_prompt,
            self.extra,
        ]

    def labelled(self, texts: Texts) -> dict[Any, Any]:
        """The updates that put the page into a language."""
        labels = {
            self.format_description: texts.format_description,
            self.format_sound: texts.format_sound,
            self.inputs: texts.inputs,
            self.own_weights: texts.have_them,
            self.first_frame: texts.first_frame,
            self.voice: texts.voice,
            self.shape: texts.shape,
            self.seconds: texts.seconds,
            self.advanced: texts.advanced,
            self.models: texts.model,
            self.seed: texts.seed,
            self.lock_seed: texts.lock_seed,
            self.steps: texts.steps,
            self.guidance: texts.guidance,
            self.negative_prompt: texts.negative_prompt,
            self.own_folder: texts.have_them_info,
            self.language: texts.language,
        }
        for i, part in enumerate(self.lines):
            labels[part] = (texts.format_speaker, texts.format_language, texts.format_says)[i % 3]
        values = {
            self.format_help: texts.format_help,
            self.format_write: texts.format_write,
            self.generate: texts.generate,
            self.stop: texts.stop,
            self.resume: texts.resume,
            self.discard: texts.discard,
            self.cancel: texts.cancel,
            self.try_tiny: texts.try_tiny,
            self.have_them: texts.use_folder,
            self.reuse: texts.reuse,
            self.again: texts.again,
            self.upscale: texts.upscale,
            self.copy_command: texts.copy_command,
            self.copy_python: texts.copy_python,
        }
        updates = {part: gr.update(label=label) for part, label in labels.items()}
        updates |= {part: gr.update(value=value) for part, value in values.items()}
        updates[self.download] = gr.update(label=texts.download)
        updates[self.drop] = gr.update(label=texts.drop)
        updates[self.quality] = gr.update(label=texts.quality, choices=qualities(self.model, texts))
        updates[self.prompt] = gr.update(label=texts.prompt, placeholder=texts.prompt_placeholder)
        return updates


def qualities(model: Model, texts: Texts) -> list[tuple[str, str]]:
    """A draft at the base size, and the sizes that the model can upscale to."""
    return [
        (texts.draft, DRAFT),
        *((texts.upscaled.format(size=size), size) for size in model.upscalers),
    ]


def header(machine: str, memory: str, model: str, shared: bool) -> str:
    """The title, and on what the page runs."""
    texts = Texts.of("en")
    where = texts.shared if shared else texts.local
    pill = " · ".join(escape(part) for part in (machine, memory, model, where) if part)
    return (
        '<div class="hh-header"><h1>HappyHorse <span>MLX</span></h1>'
        f'<span class="hh-pill" data-shared="{str(shared).lower()}">{pill}</span></div>'
    )
