"""A model's name, Hub repo or folder → the folder on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from .errors import ModelError, RequestError
from .files import expanded
from .weights import read_json

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
EMBEDDED = {"tiny": Path(__file__).parent / "tiny"}


def find(model: str | Path) -> Path:
    """The folder of a model. Raises RequestError when there is none of that name."""
    name = str(model)
    if not name.strip():
        raise RequestError(f"name a model: {', '.join(EMBEDDED)}, a Hub repo (owner/name) or a folder.")
    folder = EMBEDDED.get(name) or expanded(model)
    if not os.path.isdir(folder):  # noqa: PTH112, Path.is_dir raises for a name too long
        folder = _from_hub(name)
    if not (folder / "config.json").is_file():
        raise RequestError(
            f"{model} is not a model folder: it has no config.json. "
            "Make one from published checkpoints with: happyhorse convert"
        )
    return folder


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
    return config


def _from_hub(repo: str) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    known = ", ".join(EMBEDDED)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise RequestError(f"there is no model {repo!r}: give {known}, a Hub repo (owner/name) or a folder.")
    try:
        describe(Path(hf_hub_download(repo, "config.json")).parent)  # before anything large is fetched
        return Path(snapshot_download(repo, allow_patterns=["*.json", "*.safetensors", "README.md"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise RequestError(
            f"{repo!r} is neither a folder here nor a repo that could be fetched: {reason}"
        ) from error
