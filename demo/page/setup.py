"""What the card of a first visit does."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mlx_happyhorse.errors import RequestError
from mlx_happyhorse.files import expanded

from ..downloads import Downloads
from ..offers import Offer, offers
from . import first_run
from .layout import Page
from .models import TINY, Model, real_models
from .stage import size
from .texts import Texts


class Setup:
    """Handlers of the card; the download is the server's, whichever tab began it."""

    def __init__(self, page: Page, downloads: Downloads):
        self.page, self.downloads = page, downloads
        self._offers: list[Offer] = []

    def connect(self, blocks: gr.Blocks, run: dict[str, Any]) -> None:
        page = self.page
        card = [page.first_run, page.welcome, page.offer, page.get, page.fetch_clock]
        progress = [page.fetching, page.get, page.cancel, page.fetch_clock, page.first_run, page.models]
        blocks.load(self.greet, [page.language], card, **run)
        page.language.change(self.greet, [page.language], card, **run)
        page.offer.change(self.choose, [page.offer, page.language], [page.get], **run)
        page.get.click(self.fetch, [page.offer, page.language], progress, **run)
        page.cancel.click(self.downloads.cancel, None, None, **run)
        page.fetch_clock.tick(self.look, [page.language], progress, **run)
        ready = [page.first_run, page.models]
        page.try_tiny.click(lambda: (gr.update(visible=False), TINY), None, ready, **run)
        folder = [page.own_folder, page.language]
        page.have_them.click(self.use, folder, [page.fetching, *ready], **run)

    def greet(self, language: str) -> list[Any]:
        if real_models():
            return [gr.update(visible=False), *[gr.skip()] * 4]
        texts = Texts.of(language)
        self._offers = self._offers or offers(first_run.MODEL)
        choices = [first_run.label(offer, texts) for offer in self._offers]
        best = next((i for i, offer in enumerate(self._offers) if offer.recommended), 0)
        fetching = self.downloads.now.state == "fetching"
        return [
            gr.update(visible=True),
            first_run.card(self._offers, texts),
            gr.update(choices=choices, value=choices[best]),
            gr.update(value=texts.get.format(size=size(self._offers[best].fetched))),
            gr.Timer(active=fetching),
        ]

    def choose(self, name: str, language: str) -> Any:
        texts = Texts.of(language)
        offer = self._offer(name, texts)
        return gr.skip() if offer is None else gr.update(value=texts.get.format(size=size(offer.fetched)))

    def fetch(self, name: str, language: str) -> list[Any]:
        if (offer := self._offer(name, Texts.of(language))) is not None:
            self.downloads.start(offer)
        return self.look(language)

    def look(self, language: str) -> list[Any]:
        """How far the download is; when it is here, the page goes on with it."""
        texts, now = Texts.of(language), self.downloads.now
        busy, here = now.state == "fetching", now.state == "done"
        return [
            first_run.progress(now, texts),
            gr.update(interactive=not busy),
            gr.update(visible=busy),
            gr.Timer(active=busy),
            gr.update(visible=False) if here else gr.skip(),
            gr.update(choices=[*real_models(), TINY], value=now.model) if here else gr.skip(),
        ]

    def use(self, folder: str, language: str) -> list[Any]:
        """Take a model that the user has in a folder."""
        try:
            path = expanded(folder.strip())
            if not path.is_dir():
                raise RequestError(f"there is no folder {path}.")
            name = Model.of(str(path)).name
        except (RequestError, OSError) as error:
            fetch = first_run.Fetch("error", note=str(error))
            return [first_run.progress(fetch, Texts.of(language)), gr.skip(), gr.skip()]
        choices = [*dict.fromkeys([name, *real_models(), TINY])]
        return ["", gr.update(visible=False), gr.update(choices=choices, value=name)]

    def _offer(self, name: str, texts: Texts) -> Offer | None:
        return next((offer for offer in self._offers if first_run.label(offer, texts) == name), None)
