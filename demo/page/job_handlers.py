"""Start and stop jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from mlx_happyhorse.errors import HappyHorseError

from ..jobs.queue import Jobs, Order
from .form import DRAFT, Form, new_seed
from .layout import Page
from .stage_handlers import StageHandlers
from .texts import Texts


class JobHandlers:
    def __init__(self, page: Page, jobs: Jobs, stage: StageHandlers):
        self.page, self.jobs, self.stage = page, jobs, stage
        self.outputs: list[Any] = [*stage.outputs, page.job, page.saved_job, page.seed]

    def generate(self, *values: Any) -> dict[Any, Any]:
        """Submit the clip that the fields describe, with a new seed unless it is locked."""
        *fields, language = values
        form, texts = Form(*fields), Texts.of(language)
        if not form.prompt.strip():
            return self.stage.refusal(texts, texts.empty_prompt)
        if not form.lock or form.seed is None:
            form = form._replace(seed=new_seed())
        return self._submit(form.order, texts)

    def again(self, clip_name: str, language: str) -> dict[Any, Any]:
        """Submit the finished clip again with a new seed."""
        texts, order = Texts.of(language), self._order_of(clip_name)
        if order is None:
            return self.stage.refusal(texts, texts.clip_missing)
        settings = order.settings | {"seed": new_seed()}
        return self._submit(lambda: replace(order, settings=settings), texts)

    def upscale(self, clip_name: str, quality: str, language: str) -> dict[Any, Any]:
        """Submit the finished clip for upscaling from its latents."""
        texts, clip = Texts.of(language), self.stage.history.find(clip_name)
        if clip is None or clip.latents is None:
            return self.stage.refusal(texts, texts.clip_missing)
        size = quality if quality != DRAFT else "540p"
        prompt, model = str(clip.settings["prompt"]), str(clip.settings["model"])
        order = Order(prompt, model, {"upscale": size}, latents=clip.latents)
        return self._submit(lambda: order, texts)

    def stop(self, job: str) -> None:
        self.jobs.stop(job)

    def resume(self) -> dict[Any, Any]:
        """Submit the unfinished clips of the last session and show the last of them."""
        page, jobs = self.page, self.jobs.resume()
        last = jobs[-1] if jobs else ""
        return {
            page.job: last,
            page.saved_job: last,
            page.clock: gr.Timer(active=bool(jobs)),
            page.unfinished: gr.update(visible=False),
        }

    def discard(self) -> Any:
        """Forget the unfinished clips of the last session."""
        self.jobs.discard()
        return gr.update(visible=False)

    def _submit(self, order_of: Callable[[], Order], texts: Texts) -> dict[Any, Any]:
        try:
            order = order_of()
            job = self.jobs.submit(order)
        except HappyHorseError as error:
            return self.stage.refusal(texts, str(error))
        page = self.page
        updates = self.stage.job(job, texts) | {page.job: job, page.saved_job: job}
        updates[page.clock] = gr.Timer(active=True)
        if "seed" in order.settings:
            updates[page.seed] = order.settings["seed"]
        return updates

    def _order_of(self, clip_name: str) -> Order | None:
        """Return the order of a finished clip: from its job, which knows its first frame and voice, else from
        its metadata."""
        for job in self.jobs.snapshots():
            if job.file is not None and job.file.name == clip_name and job.order.latents is None:
                return job.order
        clip = self.stage.history.find(clip_name)
        return None if clip is None else clip.order
