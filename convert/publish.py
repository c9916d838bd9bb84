"""A model folder → a repo on the Hub."""

from __future__ import annotations

from pathlib import Path

from mlx_happyhorse import hub
from mlx_happyhorse.files import expanded


def upload(folder: str | Path, repo: str) -> str:
    """Publishes a model folder, into a repo that is made if there is none; returns where it can be seen.

    Raises RequestError for another kind of folder, HubError if the Hub refuses."""
    from huggingface_hub import HfApi

    folder = expanded(folder)
    hub.describe(folder)
    with hub.asking(repo):
        api = HfApi()
        url = api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Model folder for mlx_happyhorse")
    return str(url)
