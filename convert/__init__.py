"""Published PyTorch checkpoints → model folders."""

from .download import USUAL, Planned, download
from .folder import convert, inspect
from .job import Progress
from .precision import Quantization
from .publish import make_repo, upload
from .repair import fix
from .repo import Repo

__all__ = [
    "USUAL",
    "Planned",
    "Progress",
    "Quantization",
    "Repo",
    "convert",
    "download",
    "fix",
    "inspect",
    "make_repo",
    "upload",
]
