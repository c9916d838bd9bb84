"""A model folder → a repo on the Hub."""

from __future__ import annotations

from pathlib import Path

from mlx_happyhorse.files import expanded
from mlx_happyhorse.storage import hub


def make_repo(repo: str) -> str:
    """Makes a repo if there is none, which tells whether one may write to it; returns its address.

    Raises HubError if not."""
    from huggingface_hub import HfApi

    with hub.asking(repo):
        return str(HfApi().create_repo(repo, exist_ok=True))


def upload(folder: str | Path, repo: str) -> str:
    """Publishes a model folder; returns where it can be seen.

    Raises RequestError for another kind of folder, HubError if the Hub refuses."""
    from huggingface_hub import HfApi

    folder = expanded(folder)
    hub.describe(folder)
    url = make_repo(repo)
    with hub.asking(repo):
        HfApi().upload_folder(
            repo_id=repo, folder_path=folder, commit_message="Model folder for mlx_happyhorse"
        )
    return url
