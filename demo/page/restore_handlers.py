"""Fill the fields from an earlier clip or from the form of the prompt's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from mlx_happyhorse.errors import RequestError

from .form import DRAFT, formatted_prompt
from .history import History
from .html import messages
from .layout import Page
from .restored import RestoredSettings
from .texts import Texts


class RestoreHandlers:
    def __init__(self, page: Page, history: History):
        self.page, self.history = page, history
        self.outputs: list[Any] = [
            page.prompt,
            page.seconds,
            page.quality,
            page.seed,
            page.steps,
            page.extra,
            page.message,
        ]

    def reuse(self, clip_name: str, language: str) -> dict[Any, Any]:
        """Restore the settings of the clip on the stage."""
        clip = self.history.find(clip_name)
        return self._restore(None if clip is None else clip.file, Texts.of(language))

    def on_upload(self, file: str | None, language: str) -> dict[Any, Any]:
        """Restore the settings of a clip that was dropped on the page."""
        is_clip = file is not None and file.lower().endswith(".mp4")
        return self._restore(Path(file) if file is not None and is_clip else None, Texts.of(language))

    def write_prompt(self, description: str, sound: str, *lines: str) -> dict[Any, Any]:
        """Write the prompt in the model's own format."""
        try:
            return {
                self.page.prompt: formatted_prompt(description, sound, *lines),
                self.page.message: "",
            }
        except RequestError as error:
            return {self.page.message: messages([str(error)])}

    def _restore(self, file: Path | None, texts: Texts) -> dict[Any, Any]:
        page = self.page
        if file is None:
            return {page.message: ""}
        try:
            restored = RestoredSettings.read(file)
        except RequestError as error:  # an upload's path means nothing to its owner
            return {page.message: messages([str(error).replace(str(file), file.name)])}
        settings = restored.settings
        return {
            page.prompt: restored.prompt,
            page.seconds: round(settings.get("seconds", 5)) or 1,
            page.quality: settings.get("upscale", DRAFT),
            page.seed: settings.get("seed"),
            page.steps: settings.get("steps", gr.skip()),
            page.extra: {name: settings[name] for name in ("width", "height") if name in settings},
            page.message: messages(_hints(restored, texts)),
        }


def _hints(restored: RestoredSettings, texts: Texts) -> list[str]:
    """Return what was restored, and what the user must choose again."""
    hints = [texts.restored]
    if restored.image:
        hints.append(texts.choose_image.format(name=restored.image))
    if restored.audio:
        hints.append(texts.choose_audio.format(name=restored.audio))
    if not restored.model_is_here:
        hints.append(texts.choose_model.format(name=restored.model))
    return hints
