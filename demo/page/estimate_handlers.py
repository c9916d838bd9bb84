"""Show the estimate of the clip that the fields describe, and apply the fix that it offers."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from mlx_happyhorse.errors import HappyHorseError

from ..jobs.queue import Estimate, Jobs
from .form import DRAFT, Form
from .layout import Page
from .models import SHORTEST
from .texts import Texts


class EstimateHandlers:
    def __init__(self, page: Page, jobs: Jobs):
        self.page, self.jobs = page, jobs
        self.outputs: list[Any] = [page.estimate, page.fit, page.generate, page.fix]

    def estimate(self, *values: Any) -> dict[Any, Any]:
        """Show memory and time; a clip that does not fit disables Generate and offers a fix."""
        *fields, language = values
        try:
            found = self.jobs.estimate(Form(*fields).order(default_prompt="…"))
        except HappyHorseError as error:
            found = Estimate("red", str(error))
        page, label = self.page, _fix_label(found.fix, Texts.of(language))
        return {
            page.estimate: _html(found),
            page.fit: gr.update(visible=bool(found.fix), value=label),
            page.generate: gr.update(interactive=found.state != "red"),
            page.fix: found.fix,
        }

    def apply_fix(self, fix: dict[str, Any]) -> dict[Any, Any]:
        """Put the offered settings into the fields, and those that have no field into `extra`."""
        extra = {
            name: value
            for name, value in fix.items()
            if name not in ("upscale", "seconds") and value is not None
        }
        updates: dict[Any, Any] = {self.page.extra: extra}
        if fix.get("upscale", "") is None:
            updates[self.page.quality] = gr.update(value=DRAFT)
        if "seconds" in fix:
            seconds = int(fix["seconds"])
            if seconds >= 1:  # the slider takes whole seconds only
                updates[self.page.seconds] = gr.update(value=seconds, minimum=min(seconds, SHORTEST))
            else:
                extra["seconds"] = fix["seconds"]
        return updates


def _html(estimate: Estimate) -> str:
    line = escape(estimate.line)
    return f'<div id="estimate" role="status" data-state="{estimate.state}">{line}</div>'


def _fix_label(fix: dict[str, Any], texts: Texts) -> str:
    """Return the label of the button that applies a fix."""
    if not fix:
        return ""
    changes = []
    if fix.get("upscale", "") is None:
        changes.append(texts.fix_no_upscale)
    if "seconds" in fix:
        changes.append(texts.fix_seconds.format(seconds=fix["seconds"]))
    if "width" in fix:
        changes.append(texts.fix_size.format(width=fix["width"], height=fix["height"]))
    if fix.get("upscale_size"):
        width, height = fix["upscale_size"]
        changes.append(texts.fix_upscale_size.format(width=width, height=height))
    return texts.fix_with.format(change=", ".join(changes))
