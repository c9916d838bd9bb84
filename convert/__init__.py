"""Convert published PyTorch checkpoints to model folders."""

from .download import USUAL, Planned, download
from .folder import convert, inspect
from .publish import make_repo, upload
from .read.repo import Repo
from .repair import fix
from .write.job import Progress
from .write.quantization import Quantization

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
