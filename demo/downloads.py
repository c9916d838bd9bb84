"""Weights on their way from the Hub, on a thread of their own."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

from mlx_happyhorse.convert import Progress, download
from mlx_happyhorse.errors import HappyHorseError, Stopped
from mlx_happyhorse.notes import told_to

from .offers import Offer


@dataclass(frozen=True)
class Fetch:
    """How far a download is. `model` is its name once it is here, `note` the last that was said of it."""

    state: Literal["none", "fetching", "done", "cancelled", "error"] = "none"
    done: int = 0
    total: int = 0
    model: str = ""
    note: str = ""


class Downloads:
    """One at a time; what was cancelled resumes where it was."""

    def __init__(self) -> None:
        self._fetch, self._stopping = Fetch(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def now(self) -> Fetch:
        return self._fetch

    def start(self, offer: Offer) -> None:
        """Begin a download, unless one is under way."""
        if self._fetch.state == "fetching":
            return
        self._fetch = Fetch("fetching", total=offer.fetched)
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, args=(offer,), name="download", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """End it; what was fetched is kept."""
        self._stopping.set()

    def close(self) -> None:
        """End it, and wait a little for that."""
        self.cancel()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self, offer: Offer) -> None:
        try:
            with told_to(self._note):
                folder = download(offer.model, quantization=offer.quantization, on_progress=self._show)
        except Stopped:
            self._fetch = Fetch("cancelled")
        except HappyHorseError as error:
            self._fetch = Fetch("error", note=str(error))
        except Exception as error:
            self._fetch = Fetch("error", note=f"{type(error).__name__}: {error}")
        else:
            self._fetch = Fetch("done", model=folder.name)

    def _show(self, progress: Progress) -> None:
        if self._stopping.is_set():
            raise Stopped
        total = progress.total or self._fetch.total  # the offer's own until one is known
        self._fetch = Fetch("fetching", progress.done, total, note=self._fetch.note)

    def _note(self, note: str) -> None:
        self._fetch = Fetch("fetching", self._fetch.done, self._fetch.total, note=note)
