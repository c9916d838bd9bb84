"""Download the weights on the first run, or use weights that are there."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mlx_happyhorse.errors import RequestError
from mlx_happyhorse.files import expanded

from ..downloads import Downloads, DownloadStatus
from ..offers import Offer, offers
from . import first_run
from .html import size
from .layout import Page
from .models import TINY, Model, full_models
from .texts import Texts


class FirstRunHandlers:
    """Handlers of the card of the first run. All tabs share one download."""

    def __init__(self, page: Page, downloads: Downloads):
        self.page, self.downloads = page, downloads
        self._offers: list[Offer] = []

    def on_load(self, language: str) -> dict[Any, Any]:
        """Show the card, unless a full model is on this machine."""
        page, texts = self.page, Texts.of(language)
        if full_models():
            return {page.first_run: gr.update(visible=False)}
        self._offers = self._offers or offers(first_run.MODEL)
        choices = [first_run.label(offer) for offer in self._offers]
        best = next((i for i, offer in enumerate(self._offers) if offer.recommended), 0)
        return {
            page.first_run: gr.update(visible=True),
            page.welcome: first_run.card(self._offers, texts),
            page.offer: gr.update(choices=choices, value=choices[best]),
            page.download_weights: _download_button(self._offers[best], texts),
            page.download_clock: gr.Timer(active=self.downloads.status.state == "downloading"),
        }

    def choose(self, label: str, language: str) -> Any:
        """Show the size of the chosen download on its button."""
        offer = self._find(label)
        return gr.skip() if offer is None else _download_button(offer, Texts.of(language))

    def download(self, label: str, language: str) -> dict[Any, Any]:
        """Start the chosen download."""
        if (offer := self._find(label)) is not None:
            self.downloads.start(offer)
        return self.refresh(language)

    def refresh(self, language: str) -> dict[Any, Any]:
        """Show the progress of the download; select the model once it is complete."""
        page, texts, status = self.page, Texts.of(language), self.downloads.status
        running = status.state == "downloading"
        updates = {
            page.download_status: first_run.progress(status, texts),
            page.download_weights: gr.update(interactive=not running),
            page.cancel_download: gr.update(visible=running),
            page.download_clock: gr.Timer(active=running),
        }
        if status.state == "done":
            updates[page.first_run] = gr.update(visible=False)
            updates[page.model] = gr.update(choices=[*full_models(), TINY], value=status.model)
        return updates

    def use_folder(self, folder: str, language: str) -> dict[Any, Any]:
        """Select the model in a folder of the user's."""
        page = self.page
        try:
            path = expanded(folder.strip())
            if not path.is_dir():
                raise RequestError(f"there is no folder {path}.")
            name = Model.of(str(path)).name
        except (RequestError, OSError) as error:
            status = DownloadStatus("error", note=str(error))
            return {page.download_status: first_run.progress(status, Texts.of(language))}
        choices = [*dict.fromkeys([name, *full_models(), TINY])]
        return {
            page.download_status: "",
            page.first_run: gr.update(visible=False),
            page.model: gr.update(choices=choices, value=name),
        }

    def use_tiny(self) -> dict[Any, Any]:
        """Select the tiny model, which is part of the package."""
        return {self.page.first_run: gr.update(visible=False), self.page.model: TINY}

    def _find(self, label: str) -> Offer | None:
        return next((offer for offer in self._offers if first_run.label(offer) == label), None)


def _download_button(offer: Offer, texts: Texts) -> Any:
    return gr.update(value=texts.download_weights.format(size=size(offer.fetched)))
