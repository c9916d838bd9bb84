"""Published PyTorch checkpoints → model folders."""

from .download import USUAL, Planned, download
from .folder import convert, inspect
from .job import Progress
from .offers import Offer, free_disk, gated, licences, offers
from .precision import Quantization
from .publish import make_repo, upload
from .repair import fix
from .repo import Repo

__all__ = [
    "USUAL",
    "Offer",
    "Planned",
    "Progress",
    "Quantization",
    "Repo",
    "convert",
    "download",
    "fix",
    "free_disk",
    "gated",
    "inspect",
    "licences",
    "make_repo",
    "offers",
    "upload",
]
