"""Download published weights in the background."""

from __future__ import annotations

import threading
import traceback
from dataclasses import dataclass, replace
from typing import Literal

from mlx_happyhorse.convert import Progress, download
from mlx_happyhorse.errors import HappyHorseError, Stopped
from mlx_happyhorse.notes import listening

from .offers import Offer


@dataclass(frozen=True)
class DownloadStatus:
    """The state of a download: `done` of `total` bytes; `model` is the model's name once it is complete;
    `note` is the latest note, or the error."""

    state: Literal["none", "downloading", "done", "cancelled", "error"] = "none"
    done: int = 0
    total: int = 0
    model: str = ""
    note: str = ""


class Downloads:
    """One download at a time, in its own thread. Starting a cancelled one again resumes it."""

    def __init__(self, verbose: bool = False) -> None:
        self._verbose = verbose
        self._status, self._stopping = DownloadStatus(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> DownloadStatus:
        return self._status

    def start(self, offer: Offer) -> None:
        """Start a download, unless one is running."""
        if self._status.state == "downloading":
            return
        self._status = DownloadStatus("downloading", total=offer.fetched)
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, args=(offer,), name="download", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Stop the download and keep the files that are complete."""
        self._stopping.set()

    def close(self) -> None:
        """Cancel the download and wait up to 5 s for its thread."""
        self.cancel()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self, offer: Offer) -> None:
        try:
            with listening(self._on_note):
                folder = download(offer.model, quantization=offer.quantization, on_progress=self._on_progress)
        except Stopped:
            self._status = DownloadStatus("cancelled")
        except HappyHorseError as error:
            self._status = DownloadStatus("error", note=str(error))
        except Exception as error:  # a defect must end the download too, or the page would wait forever
            if self._verbose:
                traceback.print_exc()
            self._status = DownloadStatus("error", note=f"{type(error).__name__}: {error}")
        else:
            self._status = DownloadStatus("done", model=folder.name)

    def _on_progress(self, progress: Progress) -> None:
        if self._stopping.is_set():
            raise Stopped
        total = progress.total or self._status.total  # the offer's own total until the Hub has answered
        self._status = replace(self._status, done=progress.done, total=total)

    def _on_note(self, note: str) -> None:
        self._status = replace(self._status, note=note)
