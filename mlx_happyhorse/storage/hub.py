"""A model's name, Hub repo or folder → its folder on this machine."""

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
BUSY = (408, 429, 500, 502, 503, 504)  # statuses that are worth a retry


class Published(NamedTuple):
    """The place of a component's published weights: a folder or file of a Hub repo."""

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
    """Return the folder of a model. Of a Hub repo, fetch only the descriptions, unless the cache has them.

    Raise RequestError if there is no such model, HubError if the Hub is not responding."""
    name = str(model)
    if not name.strip():
        raise RequestError(f"a model is required: {_known()}, a Hub repo (owner/name) or a folder.")
    if name.lower() in UNPUBLISHED:
        raise RequestError(UNPUBLISHED[name.lower()])
    folder = EMBEDDED.get(name) or _downloaded(name) or expanded(model)
    if not os.path.isdir(folder):  # noqa: PTH112, Path.is_dir raises for a name too long
        if name in PUBLISHED:
            raise RequestError(f"{name} is not on this machine: happyhorse download {name}")
        if not REPO.fullmatch(name):
            raise RequestError(f"there is no model {name!r}: choose {_known()}, a Hub repo or a folder.")
        folder = _cached(name) or _snapshot(name, DESCRIPTIONS, on_bytes)
    if not (folder / "config.json").is_file():
        raise RequestError(
            f"{model} is not a model folder: it has no config.json. "
            "Make one from published checkpoints with: happyhorse convert"
        )
    return folder


def installed() -> list[str]:
    """Return the names of the models on this machine: the embedded ones, then those in `home()`."""
    folders = sorted(config.parent for config in home().glob("*/config.json"))
    return [*EMBEDDED, *(folder.name for folder in folders if not folder.name.startswith("."))]


def is_installed(name: str) -> bool:
    """Return whether a model is embedded, or was downloaded under this name; paths and Hub repos are not."""
    return name in EMBEDDED or (not name.startswith(".") and _downloaded(name) is not None)


def fetch(folder: Path, components: Iterable[str], on_bytes: OnBytes | None = None) -> None:
    """Fetch missing components into a folder of the Hub's cache. Raise HubError."""
    repo = repo_of(folder)
    missing = [name for name in components if repo is not None and not is_complete(folder / name)]
    if missing:
        _snapshot(f"{repo}@{folder.name}", [f"{name}/*" for name in missing], on_bytes)


def download(name: str, on_bytes: OnBytes | None = None) -> Path:
    """Fetch a model from a Hub repo. Raise RequestError if it holds another kind of model, and HubError.

    Complete files are kept: after an interrupted call, the next one resumes."""
    if not REPO.fullmatch(name):
        raise RequestError(f"{name!r} is not the name of a Hub repo: use owner/name.")
    folder = _snapshot(name, DESCRIPTIONS, on_bytes)
    config = describe(folder)
    repo, _, _ = name.partition("@")
    patterns = ["*.md", *(f"{part}/*" for part in config["components"])]
    return _snapshot(f"{repo}@{folder.name}", patterns, on_bytes)


def describe(folder: Path) -> dict[str, Any]:
    """Return the model's top config.json. Raise RequestError for another kind of folder."""
    try:
        config = read_json(folder / "config.json")
    except ModelError as error:
        raise RequestError(str(error)) from error
    sampling = config.get("sampling")
    if config.get("variant") not in VARIANTS or not isinstance(sampling, dict) or SAMPLING - sampling.keys():
        raise RequestError(
            f"{folder} is not a model folder of mlx_happyhorse: its config.json lacks "
            f"a variant ({' or '.join(VARIANTS)}) or sampling settings."
        )
    names = config.get("components")
    if not isinstance(names, list) or not names or not all(name in COMPONENTS for name in names):
        raise RequestError(
            f"{folder} is not a model folder of mlx_happyhorse: it does not name its components."
        )
    return config


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Turn errors of the Hub's library into ours, which say what to do."""
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
            f"the Hub has no repo {repo}, or this account may not see it: check HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NoRevision(f"{repo} has no such revision.") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise HubError(
            f"{repo} is not complete on this machine, and the Hub is not reachable "
            "(or HF_HUB_OFFLINE is set)."
        ) from error
    except errors.HFValidationError as error:
        raise RequestError(f"{repo!r} is not the name of a Hub repo.") from error
    except errors.HfHubHTTPError as error:
        raise _refusal(repo, error) from error
    except httpx.HTTPError as error:
        raise NotResponding(
            f"the Hub is not responding for {repo}: {error or type(error).__name__}."
        ) from error
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        raise _local_problem(repo, error) from error


def _local_problem(repo: str, error: Exception) -> HappyHorseError:
    """Return the error for a problem on this machine: the token, the disk or the proxy."""
    if isinstance(error, UnicodeError):
        return RequestError("the Hub's token contains invalid characters: set HF_TOKEN again.")
    if isinstance(error, OSError):
        return HubError(
            f"{repo} could not be stored in the Hub's cache ({error.strerror or error}). Finished "
            "files are kept: free space or allow writing there, or set HF_HOME to another folder, and retry."
        )
    return RequestError(
        f"the Hub is not reachable with HTTP_PROXY, HTTPS_PROXY or ALL_PROXY as set ({error}): "
        "use http://host:port, or unset them."
    )


def _refusal(repo: str, error: Any) -> HubError:
    status = error.response.status_code
    if status in BUSY:
        busy = NotResponding(f"the Hub is too busy for {repo} (HTTP {status}): try again later.")
        headers = error.response.headers
        # The Hub's own header gives the seconds until its window ends: "resolvers";r=0;t=120
        seconds = re.search(r"^\d+$|(?<=;t=)\d+", headers.get("Retry-After") or headers.get("RateLimit", ""))
        busy.wait = float(seconds[0]) if seconds else None
        return busy
    advice = ": check HF_TOKEN, or log in again with hf auth login." if status in (401, 403) else "."
    return HubError(f"the Hub refused {repo} (HTTP {status}){advice}")


def repo_of(folder: Path) -> str | None:
    """Return the name of the repo, or None if the folder is not in the Hub's cache."""
    cache = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not cache.startswith("models--"):
        return None
    return cache.removeprefix("models--").replace("--", "/", 1)


def refetch(repo: str, folder: Path, patterns: Iterable[str], on_bytes: OnBytes | None = None) -> None:
    """Replace files of a folder of the Hub's cache. Raise HubError."""
    with hub_errors(repo):
        snapshot(repo, folder.name, list(patterns), on_bytes, again=True)


def _snapshot(name: str, patterns: Iterable[str], on_bytes: OnBytes | None) -> Path:
    """Return the folder of a Hub repo with the files that match, from the cache where that has them all."""
    match = REPO.fullmatch(name)
    assert match
    with hub_errors(match[1]):
        return snapshot(match[1], match[2], list(patterns), on_bytes)


def _cached(name: str) -> Path | None:
    """Return the folder of a Hub repo from the cache, without a request to the Hub, or None."""
    from huggingface_hub import try_to_load_from_cache

    match = REPO.fullmatch(name)
    assert match
    with hub_errors(match[1]):
        config = try_to_load_from_cache(match[1], "config.json", revision=match[2])
    return Path(config).parent if isinstance(config, str) else None


def is_complete(folder: Path) -> bool:
    """Return whether all files exist that the component's checksums or index name."""
    names = read_sums(folder) or _shards(folder)
    return (folder / "config.json").exists() and all((folder / name).exists() for name in names)


def _shards(folder: Path) -> set[str]:
    index = folder / INDEX
    return set(weight_map(read_json(index), str(index)).values()) if index.exists() else {"model.safetensors"}


def _downloaded(name: str) -> Path | None:
    """Return the folder of a model downloaded under a name, in any precision, or None.

    Raise RequestError if there are several."""
    if Path(name).name != name:
        return None
    if os.path.isfile(home() / name / "config.json"):  # noqa: PTH113, Path.is_file raises for a name too long
        return home() / name
    found = [config.parent for config in home().glob(f"{name}-*/config.json")] if name in PUBLISHED else []
    if len(found) > 1:
        names = " or ".join(sorted(folder.name for folder in found))
        raise RequestError(f"{name} is on this machine more than once: choose {names}.")
    return found[0] if found else None


def _known() -> str:
    return ", ".join((*EMBEDDED, *PUBLISHED))
