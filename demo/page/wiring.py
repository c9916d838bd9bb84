"""Connect the components of the page to their handlers: which event calls what, and what it updates.

All tabs share the handlers; the state of a tab is in its components. Handlers submit jobs and read snapshots,
and never compute.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from ..downloads import Downloads
from ..jobs.queue import Jobs
from .estimate_handlers import EstimateHandlers
from .first_run_handlers import FirstRunHandlers
from .history import History
from .job_handlers import JobHandlers
from .labels import labels
from .layout import Page
from .page_handlers import PageHandlers
from .restore_handlers import RestoreHandlers
from .stage_handlers import StageHandlers
from .styles import COPY

PRIVATE = "private"  # no public endpoint: those are in `api`
# Handlers answer at once, so that they need neither Gradio's own queue nor its spinner.
EVENT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": PRIVATE, "queue": False}


def connect(blocks: gr.Blocks, page: Page, jobs: Jobs, downloads: Downloads) -> None:
    """Connect all events of the page."""
    history = History(jobs.folder)
    stage = StageHandlers(page, jobs, history)
    _connect_page(blocks, page, PageHandlers(page, jobs, stage), stage)
    _connect_jobs(page, JobHandlers(page, jobs, stage))
    _connect_stage(page, stage)
    _connect_estimate(blocks, page, EstimateHandlers(page, jobs))
    _connect_restore(page, RestoreHandlers(page, history))
    _connect_format_help(page)
    _connect_first_run(blocks, page, FirstRunHandlers(page, downloads))


def _connect_page(blocks: gr.Blocks, page: Page, handlers: PageHandlers, stage: StageHandlers) -> None:
    translated = list(labels(page, page.texts))
    opened = [page.language, page.job, page.clock, page.model]
    earlier = [page.history, page.unfinished, page.unfinished_count]
    refreshed = [page.job, page.language, page.shown]
    blocks.load(handlers.on_load, [page.saved_job, page.saved_language], opened, **EVENT).then(
        handlers.translate, [page.language], translated, **EVENT
    ).then(stage.refresh, refreshed, stage.outputs, **EVENT).then(
        handlers.show_earlier, [page.language], earlier, **EVENT
    )
    page.language.input(lambda language: language, [page.language], page.saved_language, **EVENT)
    page.language.input(handlers.translate, [page.language], translated, **EVENT).then(
        stage.translate, [page.job, page.language, page.clip_name], stage.outputs, **EVENT
    )
    switched = [page.seconds, page.quality, page.guidance_group, page.guidance, page.steps]
    page.model.change(handlers.switch_model, [page.model, page.language], switched, **EVENT)


def _connect_jobs(page: Page, handlers: JobHandlers) -> None:
    fields = [*page.fields, page.language]
    page.generate.click(handlers.generate, fields, handlers.outputs, **EVENT)
    page.stop.click(handlers.stop, [page.job], None, **EVENT)
    page.again.click(handlers.again, [page.clip_name, page.language], handlers.outputs, **EVENT)
    upscaled = [page.clip_name, page.quality, page.language]
    page.upscale.click(handlers.upscale, upscaled, handlers.outputs, **EVENT)
    resumed = [page.job, page.saved_job, page.clock, page.unfinished]
    page.resume.click(handlers.resume, None, resumed, **EVENT)
    page.discard.click(handlers.discard, None, page.unfinished, **EVENT)


def _connect_stage(page: Page, handlers: StageHandlers) -> None:
    refreshed = [page.job, page.language, page.shown]
    page.clock.tick(handlers.refresh, refreshed, handlers.outputs, **EVENT)
    page.history.click(handlers.pick, [page.language], handlers.outputs, **EVENT)
    page.copy_command.click(None, [page.command_text], None, js=COPY, api_visibility=PRIVATE)
    page.copy_python.click(None, [page.script_text], None, js=COPY, api_visibility=PRIVATE)


def _connect_estimate(blocks: gr.Blocks, page: Page, handlers: EstimateHandlers) -> None:
    fields = [*page.fields, page.language]
    choices: list[Any] = [page.shape, page.quality, page.model, page.seconds, page.steps, page.guidance]
    choices += [page.first_frame, page.voice, page.extra, page.clip_name, page.language]
    # One event for everything that changes the estimate: of two, the older could answer last.
    gr.on(
        [blocks.load, page.prompt.blur, *(part.change for part in choices)],
        handlers.estimate,
        fields,
        handlers.outputs,
        trigger_mode="always_last",
        **EVENT,
    )
    # A new choice replaces what a fix or a restored clip had set.
    chosen = [page.shape.input, page.quality.input, page.model.input]
    for event in (*chosen, page.first_frame.change, page.voice.change):
        event(lambda: {}, None, page.extra, **EVENT)
    fixed = [page.seconds, page.quality, page.extra]
    page.fit.click(handlers.apply_fix, [page.fix], fixed, **EVENT).then(
        handlers.estimate, fields, handlers.outputs, **EVENT
    )


def _connect_restore(page: Page, handlers: RestoreHandlers) -> None:
    page.reuse.click(handlers.reuse, [page.clip_name, page.language], handlers.outputs, **EVENT)
    page.restore_file.upload(
        handlers.on_upload, [page.restore_file, page.language], handlers.outputs, **EVENT
    ).then(lambda: None, None, page.restore_file, **EVENT)
    form = [page.format_description, page.format_sound, *page.format_lines]
    page.format_write.click(handlers.write_prompt, form, [page.prompt, page.message], **EVENT)


def _connect_format_help(page: Page) -> None:
    """Open and close the form; it begins with the prompt as its description."""
    is_open = gr.State(False)
    page.format_help.click(
        lambda was_open, prompt: (not was_open, gr.update(visible=not was_open), prompt),
        [is_open, page.prompt],
        [is_open, page.format_form, page.format_description],
        **EVENT,
    )


def _connect_first_run(blocks: gr.Blocks, page: Page, handlers: FirstRunHandlers) -> None:
    card = [page.first_run, page.welcome, page.offer, page.download_weights, page.download_clock]
    selected = [page.first_run, page.model]
    progress = [page.download_status, page.download_weights, page.cancel_download, page.download_clock]
    progress += selected
    chosen = [page.offer, page.language]
    blocks.load(handlers.on_load, [page.language], card, **EVENT)
    page.language.change(handlers.on_load, [page.language], card, **EVENT)
    page.offer.change(handlers.choose, chosen, [page.download_weights], **EVENT)
    page.download_weights.click(handlers.download, chosen, progress, **EVENT)
    page.cancel_download.click(handlers.downloads.cancel, None, None, **EVENT)
    page.download_clock.tick(handlers.refresh, [page.language], progress, **EVENT)
    page.try_tiny.click(handlers.use_tiny, None, selected, **EVENT)
    folder = [page.own_folder, page.language]
    page.use_folder.click(handlers.use_folder, folder, [page.download_status, *selected], **EVENT)
