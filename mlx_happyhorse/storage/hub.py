"""A model's name, Hub repo or folder → the folder on this machine, with what a run needs of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import HappyHorseError, HubError, ModelError, NoRevision, NotResponding, RequestError
from ..files import expanded, home
from .checksums import SUMS, read_sums
from .safetensors import weight_map
from .snapshots import OnBytes, snapshot
from .weights import INDEX, read_json

COMPONENTS = (
    "transformer",
    "text_encoder",
    "video_encoder",
    "video_decoder",
    "audio_vae",
    "upscaler_540p",
    "upscaler_1080p",
)
VARIANTS = ("base", "distill")
SAMPLING = {"steps", "guidance", "seconds", "width", "height", "upscale_steps"}
EMBEDDED = {"tiny": Path(__file__).parents[1] / "tiny"}
UNPUBLISHED = {
    "happyhorse-1.0": "HappyHorse-1.0's weights are not published. "
    "Use the open ones of its design: magihuman-distill (8 steps) or magihuman-base (32 steps)."
}
REPO = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")  # owner/name@revision
DESCRIPTIONS = ("config.json", "README.md", "*/config.json", f"*/{SUMS}", f"*/{INDEX}")
BUSY = (408, 429, 500, 502, 503, 504)  # what may be answered differently a little later


class Published(NamedTuple):
    """Where a component's published weights are: a folder or file of a Hub repo."""

    repo: str
    under: str


GAIR = "GAIR/daVinci-MagiHuman"
SHARED = {
    "text_encoder": Published("google/t5gemma-9b-9b-ul2", ""),
    "video_encoder": Published("Wan-AI/Wan2.2-TI2V-5B", "Wan2.2_VAE.pth"),
    "video_decoder": Published(GAIR, "turbo_vae"),
    "audio_vae": Published("stabilityai/stable-audio-open-1.0", "model.safetensors"),
    "upscaler_540p": Published(GAIR, "540p_sr"),
    "upscaler_1080p": Published(GAIR, "1080p_sr"),
}
PUBLISHED = {f"magihuman-{v}": {"transformer": Published(GAIR, v)} | SHARED for v in VARIANTS}


def find(model: str | Path, on_bytes: OnBytes | None = None) -> Path:
    """The folder of a model. Of a Hub repo only the descriptions are fetched, and only if they are not here.

    Raises RequestError when there is none of that name, HubError if the Hub does not answer."""
    name = str(model)
    if not name.strip():
        raise RequestError(f"name a model: {_known()}, a Hub repo (owner/name) or a folder.")
    if name.lower() in UNPUBLISHED:
        raise RequestError(UNPUBLISHED[name.lower()])
    folder = EMBEDDED.get(name) or _downloaded(name) or expanded(model)
    if not os.path.isdir(folder):  # noqa: PTH112, Path.is_dir raises for a name too long
        if name in PUBLISHED:
            raise RequestError(f"{name} is not on this machine: happyhorse download {name}")
        if not REPO.fullmatch(name):
            raise RequestError(f"there is no model {name!r}: give {_known()}, a Hub repo or a folder.")
        folder = _cached(name) or _snapshot(name, DESCRIPTIONS, on_bytes)
    if not (folder / "config.json").is_file():
        raise RequestError(
            f"{model} is not a model folder: it has no config.json. "
            "Make one from published checkpoints with: happyhorse convert"
        )
    return folder


def installed() -> list[str]:
    """The names of the models on this machine: the embedded ones, then those below `home()`."""
    folders = sorted(config.parent for config in home().glob("*/config.json"))
    return [*EMBEDDED, *(folder.name for folder in folders if not folder.name.startswith("."))]


def is_here_as(name: str) -> bool:
    """Whether a model is embedded, or was downloaded under this very name: no path, and nothing to fetch."""
    return name in EMBEDDED or (not name.startswith(".") and _downloaded(name) is not None)


def fetch(folder: Path, components: Iterable[str], on_bytes: OnBytes | None = None) -> None:
    """Gets what is missing of components into a folder of the Hub's cache. Raises HubError."""
    repo = repo_of(folder)
    missing = [name for name in components if repo is not None and not is_here(folder / name)]
    if missing:
        _snapshot(f"{repo}@{folder.name}", [f"{name}/*" for name in missing], on_bytes)


def download(name: str, on_bytes: OnBytes | None = None) -> Path:
    """All of a Hub repo as it is now. Raises RequestError if it is no model of ours, or HubError.

    What is done is kept: however a call ended, the next resumes it."""
    if not REPO.fullmatch(name):
        raise RequestError(f"{name!r} is no Hub repo, which has a name like owner/name.")
    folder = _snapshot(name, DESCRIPTIONS, on_bytes)
    config = describe(folder)
    repo, _, _ = name.partition("@")
    patterns = ["*.md", *(f"{part}/*" for part in config["components"])]
    return _snapshot(f"{repo}@{folder.name}", patterns, on_bytes)


def describe(folder: Path) -> dict[str, Any]:
    """The model's own description, its top config.json. Raises RequestError for another kind of folder."""
    try:
        config = read_json(folder / "config.json")
    except ModelError as error:
        raise RequestError(str(error)) from error
    sampling = config.get("sampling")
    if config.get("variant") not in VARIANTS or not isinstance(sampling, dict) or SAMPLING - sampling.keys():
        raise RequestError(
            f"{folder} is not a model folder of ours: its config.json lacks "
            f"a variant ({' or '.join(VARIANTS)}) or sampling settings."
        )
    names = config.get("components")
    if not isinstance(names, list) or not names or not all(name in COMPONENTS for name in names):
        raise RequestError(f"{folder} is not a model folder of ours: it does not name its components.")
    return config


@contextmanager
def asking(repo: str) -> Iterator[None]:
    """Turns what the Hub's library raises into what a person can do about it."""
    import httpx
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{repo} is gated: accept its licence at https://huggingface.co/{repo}, then log in with "
            "hf auth login, or set HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"the Hub has no repo {repo}, or shows it only to others: is HF_TOKEN right?"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NoRevision(f"{repo} has no such revision.") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise HubError(
            f"{repo} is not on this machine, or not all of it, and the Hub is out of reach "
            "(or HF_HUB_OFFLINE is set)."
        ) from error
    except errors.HFValidationError as error:
        raise RequestError(f"{repo!r} is no name of a Hub repo.") from error
    except errors.HfHubHTTPError as error:
        raise _refusal(repo, error) from error
    except httpx.HTTPError as error:
        raise NotResponding(
            f"the Hub does not answer for {repo}: {error or type(error).__name__}."
        ) from error
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        raise _local_problem(repo, error) from error


def _local_problem(repo: str, error: Exception) -> HappyHorseError:
    """What on this machine keeps the Hub's library from asking, or from storing what it is given."""
    if isinstance(error, UnicodeError):
        return RequestError("the Hub's token holds characters that none has: set HF_TOKEN anew.")
    if isinstance(error, OSError):
        return HubError(
            f"{repo} could not be stored in the Hub's cache ({error.strerror or error}). What is done is "
            "kept: make room or allow writing there, or set HF_HOME to another folder, and try again."
        )
    return RequestError(
        f"the Hub cannot be asked as HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is set ({error}): "
        "give http://host:port, or unset them."
    )


def _refusal(repo: str, error: Any) -> HubError:
    status = error.response.status_code
    if status in BUSY:
        busy = NotResponding(f"the Hub is too busy for {repo} (HTTP {status}): try again later.")
        headers = error.response.headers
        # The Hub's own header says in how many seconds its window ends: "resolvers";r=0;t=120
        seconds = re.search(r"^\d+$|(?<=;t=)\d+", headers.get("Retry-After") or headers.get("RateLimit", ""))
        busy.wait = float(seconds[0]) if seconds else None
        return busy
    advice = ": is HF_TOKEN, or the login of hf auth login, still valid?" if status in (401, 403) else "."
    return HubError(f"the Hub refused {repo} (HTTP {status}){advice}")


def repo_of(folder: Path) -> str | None:
    """The name of the repo, if the folder is one of the Hub's cache."""
    cache = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not cache.startswith("models--"):
        return None
    return cache.removeprefix("models--").replace("--", "/", 1)


def fetch_again(repo: str, folder: Path, patterns: Iterable[str], on_bytes: OnBytes | None = None) -> None:
    """Replaces files of a folder of the Hub's cache. Raises HubError."""
    with asking(repo):
        snapshot(repo, folder.name, list(patterns), on_bytes, again=True)


def _snapshot(name: str, patterns: Iterable[str], on_bytes: OnBytes | None) -> Path:
    """The folder of a Hub repo with the files that match, from the cache where they are all there."""
    match = REPO.fullmatch(name)
    assert match
    with asking(match[1]):
        return snapshot(match[1], match[2], list(patterns), on_bytes)


def _cached(name: str) -> Path | None:
    """The folder of a Hub repo that was asked for before: the network is not asked again."""
    from huggingface_hub import try_to_load_from_cache

    match = REPO.fullmatch(name)
    assert match
    with asking(match[1]):
        config = try_to_load_from_cache(match[1], "config.json", revision=match[2])
    return Path(config).parent if isinstance(config, str) else None


def is_here(folder: Path) -> bool:
    """Whether all files are there that the component's own list of them names."""
    names = read_sums(folder) or _shards(folder)
    return (folder / "config.json").exists() and all((folder / name).exists() for name in names)


def _shards(folder: Path) -> set[str]:
    index = folder / INDEX
    return set(weight_map(read_json(index), str(index)).values()) if index.exists() else {"model.safetensors"}


def _downloaded(name: str) -> Path | None:
    """A model that was downloaded under a name, in whatever precision. Raises RequestError if in several."""
    if Path(name).name != name:
        return None
    if os.path.isfile(home() / name / "config.json"):  # noqa: PTH113, Path.is_file raises for a name too long
        return home() / name
    found = [config.parent for config in home().glob(f"{name}-*/config.json")] if name in PUBLISHED else []
    if len(found) > 1:
        names = " or ".join(sorted(folder.name for folder in found))
        raise RequestError(f"{name} is here more than once: say {names}.")
    return found[0] if found else None


def _known() -> str:
    return ", ".join((*EMBEDDED, *PUBLISHED))
