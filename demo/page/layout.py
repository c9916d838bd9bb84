"""The components of the page: one sheet with two columns. `wiring` connects them to their handlers."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from mlx_happyhorse.inputs.prompts import LANGUAGES as SPOKEN
from mlx_happyhorse.inputs.request import RATIOS

from . import stage
from .form import DRAFT, qualities
from .models import Model
from .styles import CLICKED
from .texts import LANGUAGES, Texts

DIALOGUE_LINES = 4  # in the form of "Format help"


class Page:
    """All components, and the values that a tab remembers."""

    def __init__(self, default_model: Model, header: str):
        self.texts, self.default_model = Texts.of("en"), default_model
        self._add_top(header)
        with gr.Column(visible=False, elem_id="first-run") as self.first_run:
            self._add_first_run()
        with gr.Row(elem_classes="hh-columns", equal_height=False):
            with gr.Column(scale=9, min_width=340):
                self._add_prompt()
                self._add_inputs()
                self._add_choices()
                self._add_buttons()
                self._add_advanced()
            with gr.Column(scale=10, min_width=340):
                self._add_stage()
        self._add_memory()

    def _add_top(self, header: str) -> None:
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

    def _add_first_run(self) -> None:
        self.welcome = gr.HTML()
        self.offer = gr.Radio([], label=self.texts.column_variant, show_label=False, elem_id="offer")
        with gr.Row():
            self.download_weights = gr.Button(
                self.texts.download_weights.format(size=""), variant="primary", elem_id="download-weights"
            )
            self.cancel_download = gr.Button(
                self.texts.cancel_download, visible=False, elem_id="cancel-download"
            )
            self.try_tiny = gr.Button(self.texts.try_tiny, elem_id="try-tiny")
        self.download_status = gr.HTML()
        with gr.Accordion(self.texts.own_weights, open=False, elem_id="own-weights") as self.own_weights:
            self.own_folder = gr.Textbox(
                label=self.texts.own_folder, max_lines=1, elem_id="own-folder", container=False
            )
            self.use_folder = gr.Button(self.texts.use_folder, size="sm", elem_id="have-them")

    def _add_prompt(self) -> None:
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
        with gr.Column(visible=False, elem_id="format-form") as self.format_form:
            self.format_description = gr.Textbox(label=texts.format_description, lines=3)
            self.format_lines: list[Any] = []
            for _ in range(DIALOGUE_LINES):
                with gr.Row():
                    speaker = gr.Textbox(label=texts.format_speaker, max_lines=1, scale=3)
                    language = gr.Dropdown(
                        list(SPOKEN), value="English", label=texts.format_language, scale=2, filterable=False
                    )
                    words = gr.Textbox(label=texts.format_words, max_lines=1, scale=5)
                self.format_lines += [speaker, language, words]
            self.format_sound = gr.Textbox(label=texts.format_sound, max_lines=1)
            self.format_write = gr.Button(
                texts.format_write, variant="primary", size="sm", elem_id="format-write"
            )

    def _add_inputs(self) -> None:
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

    def _add_choices(self) -> None:
        low, usual, high = self.default_model.lengths
        with gr.Group():
            with gr.Row():
                self.shape = gr.Radio(list(RATIOS), value="16:9", label=self.texts.shape, elem_id="shape")
                self.seconds = gr.Slider(
                    low, high, value=usual, step=1, label=self.texts.seconds, elem_id="seconds", buttons=[]
                )
            self.quality = gr.Radio(
                qualities(self.default_model, self.texts),
                value=DRAFT,
                label=self.texts.quality,
                elem_id="quality",
            )

    def _add_buttons(self) -> None:
        self.estimate = gr.HTML('<div id="estimate" data-state="none">…</div>')
        self.fit = gr.Button(visible=False, size="sm", elem_id="fit")
        with gr.Row():
            self.generate = gr.Button(self.texts.generate, variant="primary", scale=3, elem_id="generate")
            self.stop = gr.Button(
                self.texts.stop, variant="secondary", scale=1, elem_id="stop", interactive=False
            )

    def _add_advanced(self) -> None:
        texts = self.texts
        with gr.Accordion(texts.advanced, open=False, elem_id="advanced") as self.advanced:
            name = self.default_model.name
            self.model = gr.Dropdown([name], value=name, label=texts.model, elem_id="model", filterable=False)
            with gr.Row():
                self.seed = gr.Number(label=texts.seed, precision=0, minimum=0, elem_id="seed")
                self.lock_seed = gr.Checkbox(label=texts.lock_seed, elem_id="lock-seed")
                self.steps = gr.Number(
                    label=texts.steps,
                    precision=0,
                    minimum=1,
                    maximum=100,
                    value=self.default_model.sampling["steps"],
                    elem_id="steps",
                )
            with gr.Group(visible=self.default_model.guided) as self.guidance_group:
                self.guidance = gr.Number(
                    label=texts.guidance, minimum=1, maximum=20, value=self.default_model.sampling["guidance"]
                )
                self.negative_prompt = gr.Textbox(label=texts.negative_prompt, lines=2)

    def _add_stage(self) -> None:
        texts = self.texts
        self.stage = gr.HTML(stage.idle(texts), elem_id="stage-frame")
        with gr.Row(visible=False, elem_classes="hh-actions") as self.actions:
            self.reuse = gr.Button(texts.reuse, size="sm", elem_id="reuse")
            self.again = gr.Button(texts.again, size="sm", elem_id="again")
            self.upscale = gr.Button(texts.upscale, size="sm", elem_id="upscale")
            self.copy_command = gr.Button(texts.copy_command, size="sm", elem_id="copy-command")
            self.copy_python = gr.Button(texts.copy_python, size="sm", elem_id="copy-python")
            self.download = gr.DownloadButton(texts.download, size="sm", elem_id="download")
        with gr.Row(visible=False, elem_id="waiting") as self.unfinished:
            self.unfinished_count = gr.HTML()
            self.resume = gr.Button(texts.resume, size="sm", elem_id="resume", variant="primary")
            self.discard = gr.Button(texts.discard, size="sm", elem_id="discard")
        self.history = gr.HTML(elem_id="history", js_on_load=CLICKED)
        self.restore_file = gr.File(
            label=texts.restore_file, file_types=[".mp4"], height=130, elem_id="restore", buttons=[]
        )
        self.message = gr.HTML(elem_id="told")

    def _add_memory(self) -> None:
        """Add the values that a tab remembers, and the clocks that refresh it."""
        self.job = gr.State("")  # the id of the job on the stage
        self.saved_job = gr.BrowserState("", storage_key="happyhorse-job", secret="happyhorse")
        self.saved_language = gr.BrowserState("", storage_key="happyhorse-language", secret="happyhorse")
        self.extra = gr.State({})  # settings that no field shows
        self.fix = gr.State({})  # settings with which a clip fits
        self.shown = gr.State("")  # the HTML on the stage
        self.clip_name = gr.State("")  # the file name of the finished clip on the stage
        self.command_text = gr.Textbox(visible="hidden", label="command")
        self.script_text = gr.Textbox(visible="hidden", label="script")
        self.clock = gr.Timer(0.4, active=False)
        self.download_clock = gr.Timer(0.7, active=False)

    @property
    def fields(self) -> list[Any]:
        """The components of a `Form`, in its order."""
        return [
            self.prompt,
            self.first_frame,
            self.voice,
            self.shape,
            self.seconds,
            self.quality,
            self.model,
            self.seed,
            self.lock_seed,
            self.steps,
            self.guidance,
            self.negative_prompt,
            self.extra,
        ]


def header(machine: str, memory: str, model: str, shared: bool) -> str:
    """Return the title, the machine and the model as HTML."""
    texts = Texts.of("en")
    where = texts.shared if shared else texts.local_only
    pill = " · ".join(escape(part) for part in (machine, memory, model, where) if part)
    return (
        '<div class="hh-header"><h1>HappyHorse <span>MLX</span></h1>'
        f'<span class="hh-pill" data-shared="{str(shared).lower()}">{pill}</span></div>'
    )
