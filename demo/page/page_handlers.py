"""Prepare a tab when it loads, and follow its language and model."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mlx_happyhorse.storage import hub

from ..jobs.queue import Jobs
from .form import DRAFT, qualities
from .html import line
from .labels import labels
from .layout import Page
from .models import Model
from .stage_handlers import StageHandlers
from .texts import LANGUAGES, Texts


class PageHandlers:
    def __init__(self, page: Page, jobs: Jobs, stage: StageHandlers):
        self.page, self.jobs, self.stage = page, jobs, stage

    def on_load(self, saved_job: str, saved_language: str, request: gr.Request) -> dict[Any, Any]:
        """Set the language, the job and the models of a tab that is opened or reloaded."""
        page = self.page
        wanted = (saved_language or str(request.headers.get("accept-language", ""))).lower()
        job = saved_job if saved_job and self.jobs.snapshot(saved_job) is not None else ""
        models = [*dict.fromkeys([page.default_model.name, *hub.installed()])]
        return {
            page.language: "zh" if wanted.startswith("zh") else "en",
            page.job: job,
            page.clock: gr.Timer(active=bool(job)),
            page.model: gr.update(choices=models),
        }

    def translate(self, language: str) -> dict[Any, Any]:
        """Put the components into a language."""
        return labels(self.page, Texts.of(language if language in LANGUAGES else "en"))

    def show_earlier(self, language: str) -> dict[Any, Any]:
        """Show the history, and the number of clips that the last session did not finish."""
        page, texts, count = self.page, Texts.of(language), len(self.jobs.unfinished())
        return {
            page.history: self.stage.gallery(texts),
            page.unfinished: gr.update(visible=count > 0),
            page.unfinished_count: line(texts.unfinished.format(count=count)),
        }

    def switch_model(self, name: str, language: str) -> dict[Any, Any]:
        """Offer the choices of another model."""
        page, model, texts = self.page, Model.of(name), Texts.of(language)
        shortest, default, longest = model.lengths
        return {
            page.seconds: gr.update(minimum=shortest, maximum=longest, value=default),
            page.quality: gr.update(choices=qualities(model, texts), value=DRAFT),
            page.guidance_group: gr.update(visible=model.guided),
            page.guidance: gr.update(value=model.sampling["guidance"]),
            page.steps: gr.update(value=model.sampling["steps"]),
        }
