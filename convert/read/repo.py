"""A Hub repo as a source: its files are read where they lie, byte range by byte range, and never kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from mlx_happyhorse.errors import HubError, NotResponding
from mlx_happyhorse.notes import note
from mlx_happyhorse.runtime.waiting import OnWait, attended
from mlx_happyhorse.storage.hub import asking
from mlx_happyhorse.version import __version__

from .sources import LocalFile
from .tensors import File

ATTEMPTS = 7
FIRST_ATTEMPTS = 3  # where nothing is lost yet, it is better to say so at once
LONGEST_WAIT = 300.0  # seconds: the Hub counts requests in windows of five minutes
TIMEOUT = 20.0  # seconds without a byte
CLOSED = "the download was ended."

T = TypeVar("T")


class Repo:
    """A repo at one commit: that of `revision`, or else the newest at this moment.

    As long as `on_wait` is set, all that the Hub is asked is asked by a thread beside, and `on_wait` is
    called meanwhile; it ends the asking by raising."""

    def __init__(self, name: str, revision: str | None = None, on_wait: OnWait | None = None):
        from huggingface_hub import HfApi

        self.name = self.location = name
        self.on_wait, self.closed = on_wait, threading.Event()

        def ask() -> Any:
            with asking(name):
                return HfApi().model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT)

        info = self.ask(ask, FIRST_ATTEMPTS)
        self.revision = str(info.sha)
        self.gated = bool(info.gated)
        self._sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}

    def ask(self, ask: Callable[[], T], attempts: int = ATTEMPTS) -> T:
        """Return what `ask` is answered. Raises HubError."""

        def answer() -> T:
            return patiently(ask, attempts, self.closed)

        return answer() if self.on_wait is None else attended(answer, self.on_wait)

    def close(self) -> None:
        """End what other threads still fetch, soon."""
        self.closed.set()

    @property
    def files(self) -> list[str]:
        return sorted(self._sizes)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self._sizes.values())

    def open(self, path: str) -> File:
        """The file in the Hub's cache on this machine, or else on the Hub."""
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.name, path, revision=self.revision)
        if isinstance(cached, str):
            return LocalFile(Path(cached))
        return RemoteFile(self, path, self._sizes[path])

    def identity(self, paths: list[str]) -> dict[str, Any]:
        return self.origin()

    def origin(self) -> dict[str, str]:
        return {"repo": self.name, "revision": self.revision}


class RemoteFile:
    def __init__(self, repo: Repo, path: str, size: int):
        self.repo, self.path, self.size = repo, path, size
        self.name = f"{repo.name}/{path}"

    @cached_property
    def url(self) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo.name, self.path, revision=self.repo.revision)

    def read(self, start: int, stop: int) -> bytes:
        """Raises HubError when the bytes do not come, though they were asked for again and again."""
        return self.repo.ask(lambda: self._ask(start, stop)) if stop > start else b""

    def _ask(self, start: int, stop: int) -> bytes:
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        headers = build_hf_headers(library_name="mlx_happyhorse", library_version=__version__)
        headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        options: dict[str, Any] = {"headers": headers, "timeout": TIMEOUT, "follow_redirects": True}
        with asking(self.repo.name), get_session().stream("GET", self.url, **options) as response:
            if response.is_error:
                response.read()
                hf_raise_for_status(response)
            self._check(response, start, stop)
            data = bytearray()
            for part in response.iter_bytes():
                data += part
                if self.repo.closed.is_set():
                    raise HubError(CLOSED)
        if len(data) != stop - start:
            raise NotResponding(f"{self.name}: {len(data):,} bytes came of {stop - start:,}.")
        return bytes(data)

    def _check(self, response: Any, start: int, stop: int) -> None:
        """Before a body is read that may be another one, and endless."""
        given = response.headers.get("Content-Range", "")
        whole = response.status_code == 200 and (start, stop) == (0, self.size)
        if not whole and not given.startswith(f"bytes {start}-{stop - 1}/"):
            raise HubError(
                f"{self.name}: the server does not give the bytes that were asked for ({given or 'all'})."
            )


def patiently(ask: Callable[[], T], attempts: int, closed: threading.Event) -> T:
    """Asks again, after ever longer pauses, when the connection breaks or the server is busy."""
    for attempt in range(attempts - 1):
        try:
            return ask()
        except NotResponding as error:
            if attempt > 0:
                note("the Hub is not responding: retrying.")
            time.sleep(min(2.0**attempt if error.wait is None else error.wait, LONGEST_WAIT))
            if closed.is_set():
                raise HubError(CLOSED) from error
    return ask()
