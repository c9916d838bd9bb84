"""Show a job or a finished clip on the stage, and the history below it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ..jobs.queue import Jobs, Snapshot
from . import commands, stage
from .history import History, SavedClip, gallery
from .layout import Page
from .models import Model
from .texts import Texts


class StageHandlers:
    """Handlers return updates by component; `outputs` are all components that they may update."""

    def __init__(self, page: Page, jobs: Jobs, history: History):
        self.page, self.jobs, self.history = page, jobs, history
        self.outputs: list[Any] = [
            page.stage,
            page.shown,
            page.stop,
            page.actions,
            page.upscale,
            page.download,
            page.command_text,
            page.script_text,
            page.clip_name,
            page.clock,
            page.history,
        ]

    def refresh(self, job: str, language: str, shown: str) -> dict[Any, Any]:
        """Show the progress of the tab's job, if it has changed since `shown`."""
        return self.job(job, Texts.of(language), shown or stage.idle(self.page.texts))

    def translate(self, job: str, language: str, clip_name: str) -> dict[Any, Any]:
        """Show the same job or clip in another language."""
        texts = Texts.of(language)
        if not job and clip_name and (clip := self.history.find(clip_name)) is not None:
            return self._clip(clip, texts)
        return self.job(job, texts)

    def pick(self, language: str, event: gr.EventData) -> dict[Any, Any]:
        """Show a clip of the history."""
        clip = self.history.find(str(getattr(event, "name", "")))
        return gr.skip() if clip is None else self._clip(clip, Texts.of(language))

    def job(self, job: str, texts: Texts, shown: str = "") -> dict[Any, Any]:
        """Return the updates that show a job; none if `shown` is what they would show."""
        now = self.jobs.snapshot(job) if job else None
        if now is None:
            html = stage.restarted(texts) if job else stage.idle(texts)
        else:
            html = stage.show(now, texts)
        if html == shown:
            return gr.skip()
        return {self.page.stage: html, self.page.shown: html} | self._controls(now, texts)

    def refusal(self, texts: Texts, reason: str) -> dict[Any, Any]:
        """Return the updates that show why no job was started."""
        html = stage.failed(texts, reason)
        return {self.page.stage: html, self.page.shown: html}

    def gallery(self, texts: Texts) -> str:
        """Return the history as HTML."""
        return gallery(self.history.clips(), texts)

    def _controls(self, job: Snapshot | None, texts: Texts) -> dict[Any, Any]:
        """Return the updates of everything around the stage."""
        if job is not None and not job.is_open:
            return self._ended(job, texts)
        is_open = job is not None
        return {
            self.page.stop: gr.update(interactive=is_open),
            self.page.actions: gr.update(visible=False),
            self.page.clock: gr.Timer(active=is_open),
        }

    def _ended(self, job: Snapshot, texts: Texts) -> dict[Any, Any]:
        page, done = self.page, job.file is not None
        can_upscale = job.latents is not None and bool(Model.of(job.order.model).upscalers)
        return {
            page.stop: gr.update(interactive=False),
            page.actions: gr.update(visible=done),
            page.upscale: gr.update(visible=can_upscale),
            page.download: gr.update(value=str(job.file)) if done else gr.skip(),
            page.command_text: commands.command(job.order, job.settings),
            page.script_text: commands.script(job.order, job.settings),
            page.clip_name: job.file.name if job.file is not None else "",
            page.clock: gr.Timer(active=False),
            page.history: self.gallery(texts),
        }

    def _clip(self, clip: SavedClip, texts: Texts) -> dict[Any, Any]:
        page, html, order = self.page, stage.finished(clip.file, texts), clip.order
        return {
            page.stage: html,
            page.shown: html,
            page.actions: gr.update(visible=True),
            page.upscale: gr.update(visible=clip.latents is not None),
            page.download: gr.update(value=str(clip.file)),
            page.command_text: commands.command(order, clip.settings),
            page.script_text: commands.script(order, clip.settings),
            page.clip_name: clip.file.name,
            page.clock: gr.Timer(active=False),
        }
