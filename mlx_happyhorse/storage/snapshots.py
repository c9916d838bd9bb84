"""Downloads of whole files into the Hub's cache, with a hook that is told the bytes and may end them.

Complete files are kept whatever happens; the Hub's library starts others again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import Stopped
from ..runtime.waiting import run_in_background

# Called a few times a second with the bytes done and in all, also while none arrive; may raise to end it.
OnBytes = Callable[[int, int], None]


class _Count:
    """Counts the bytes that the Hub's library reports to its progress bars, which show nothing."""

    def __init__(self, total: int):
        self.done, self.total, self.stopped = 0, total, False

    def report(self, on_bytes: OnBytes) -> None:
        on_bytes(self.done, max(self.total, self.done))

    def bars(self) -> type[Any]:
        from huggingface_hub.utils import tqdm

        count = self

        class Bar(tqdm):  # type: ignore[misc]
            def __init__(self, *args: Any, unit: str = "it", **options: Any):
                super().__init__(*args, **options | {"disable": True})
                self.of_bytes = unit == "B"

            def update(self, n: float | None = 1) -> None:
                if count.stopped:
                    raise Stopped("the download was stopped.")
                self.n += n or 0
                if self.of_bytes:  # there are two such bars, of the network and of the disk
                    count.done = max(count.done, int(self.n))

        return Bar


def snapshot(
    repo: str, revision: str | None, patterns: list[str], on_bytes: OnBytes | None, again: bool = False
) -> Path:
    """Return the folder of a repo with the files that match, from the cache where that has them all.

    With `again`, fetch them even so. Raise what the Hub's library raises."""
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"revision": revision, "allow_patterns": patterns, "force_download": again}
    if on_bytes is None:
        return Path(snapshot_download(repo, **options))
    count = _Count(0)

    def fetch() -> str:
        count.total = _missing(repo, revision, patterns, again)
        return str(snapshot_download(repo, tqdm_class=count.bars(), **options))

    try:
        folder = run_in_background(fetch, lambda: count.report(on_bytes))
    finally:
        count.stopped = True  # ends the other threads of the download
    count.report(on_bytes)
    return Path(folder)


def _missing(repo: str, revision: str | None, patterns: list[str], again: bool) -> int:
    """Return the bytes that must be fetched; 0 where the Hub does not respond, as the cache may suffice."""
    import httpx
    from huggingface_hub import HfApi, errors, try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects

    with suppress(httpx.HTTPError, errors.HfHubHTTPError, errors.OfflineModeIsEnabled):
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        return sum(
            sizes[name]
            for name in filter_repo_objects(sizes, allow_patterns=patterns)
            if again or not isinstance(try_to_load_from_cache(repo, name, revision=info.sha), str)
        )
    return 0
