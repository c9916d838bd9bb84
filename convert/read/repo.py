"""A Hub repo as a source: files are read remotely by byte range and never stored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from mlx_happyhorse.errors import HubError, NotResponding
from mlx_happyhorse.notes import note
from mlx_happyhorse.runtime.waiting import OnWait, run_in_background
from mlx_happyhorse.storage.hub import hub_errors
from mlx_happyhorse.version import __version__

from .sources import LocalFile
from .tensors import File

ATTEMPTS = 7
FIRST_ATTEMPTS = 3  # of a run's first request: nothing is lost yet, so fail soon
LONGEST_WAIT = 300.0  # seconds: the Hub's rate limits apply per five minutes
TIMEOUT = 20.0  # seconds without a byte
CLOSED = "the download was stopped."

T = TypeVar("T")


class Repo:
    """A repo at one commit: `revision`, or else the latest. Raise HubError.

    While `on_wait` is set, requests run in another thread and `on_wait` is called meanwhile; what it raises
    ends the request."""

    def __init__(self, name: str, revision: str | None = None, on_wait: OnWait | None = None):
        from huggingface_hub import HfApi

        self.name = self.location = name
        self.on_wait, self.closed = on_wait, threading.Event()

        def model_info() -> Any:
            with hub_errors(name):
                return HfApi().model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT)

        info = self.request(model_info, FIRST_ATTEMPTS)
        self.revision = str(info.sha)
        self.gated = bool(info.gated)
        self._sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}

    def request(self, send: Callable[[], T], attempts: int = ATTEMPTS) -> T:
        """Return the result of `send`, retrying as `retry` does. Raise HubError."""

        def work() -> T:
            return retry(send, attempts, self.closed)

        return work() if self.on_wait is None else run_in_background(work, self.on_wait)

    def close(self) -> None:
        """Make requests of other threads end soon."""
        self.closed.set()

    @property
    def files(self) -> list[str]:
        return sorted(self._sizes)

    @property
    def size(self) -> int:
        """Return the total bytes of all files."""
        return sum(self._sizes.values())

    def open(self, path: str) -> File:
        """Return a file from the local Hub cache if it is there, or else the remote one."""
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
    """A file of a Hub repo, read with HTTP range requests."""

    def __init__(self, repo: Repo, path: str, size: int):
        self.repo, self.path, self.size = repo, path, size
        self.name = f"{repo.name}/{path}"

    @cached_property
    def url(self) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo.name, self.path, revision=self.repo.revision)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes [start, stop). Raise HubError when all attempts failed."""
        return self.repo.request(lambda: self._get(start, stop)) if stop > start else b""

    def _get(self, start: int, stop: int) -> bytes:
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        headers = build_hf_headers(library_name="mlx_happyhorse", library_version=__version__)
        headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        options: dict[str, Any] = {"headers": headers, "timeout": TIMEOUT, "follow_redirects": True}
        with hub_errors(self.repo.name), get_session().stream("GET", self.url, **options) as response:
            if response.is_error:
                response.read()
                hf_raise_for_status(response)
            self._check_range(response, start, stop)
            data = bytearray()
            for block in response.iter_bytes():
                data += block
                if self.repo.closed.is_set():
                    raise HubError(CLOSED)
        if len(data) != stop - start:
            raise NotResponding(f"{self.name}: received {len(data):,} of {stop - start:,} bytes.")
        return bytes(data)

    def _check_range(self, response: Any, start: int, stop: int) -> None:
        """Raise HubError for another range, before its body is read: it may be of any length."""
        given = response.headers.get("Content-Range", "")
        complete = response.status_code == 200 and (start, stop) == (0, self.size)
        if not complete and not given.startswith(f"bytes {start}-{stop - 1}/"):
            raise HubError(
                f"{self.name}: the server did not return the requested bytes ({given or 'no Content-Range'})."
            )


def retry(send: Callable[[], T], attempts: int, closed: threading.Event) -> T:
    """Return the result of `send`; retry with exponential backoff while the Hub is not responding.

    Raise what `send` raises last, or HubError if `closed` is set meanwhile."""
    for attempt in range(attempts - 1):
        try:
            return send()
        except NotResponding as error:
            if attempt > 0:
                note("the Hub is not responding: retrying.")
            time.sleep(min(2.0**attempt if error.wait is None else error.wait, LONGEST_WAIT))
            if closed.is_set():
                raise HubError(CLOSED) from error
    return send()
