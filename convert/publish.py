"""Upload a model folder to the Hub."""

from __future__ import annotations

from pathlib import Path

from mlx_happyhorse.files import expanded
from mlx_happyhorse.storage import hub


def make_repo(repo: str) -> str:
    """Create a repo unless it exists, and return its URL. Raise HubError if it cannot be written to."""
    from huggingface_hub import HfApi

    with hub.hub_errors(repo):
        return str(HfApi().create_repo(repo, exist_ok=True))


def upload(folder: str | Path, repo: str) -> str:
    """Upload a model folder and return the repo's URL.

    Raise RequestError if it is not a model folder, HubError if the Hub refuses."""
    from huggingface_hub import HfApi

    folder = expanded(folder)
    hub.describe(folder)
    url = make_repo(repo)
    with hub.hub_errors(repo):
        HfApi().upload_folder(
            repo_id=repo, folder_path=folder, commit_message="Model folder for mlx_happyhorse"
        )
    return url
