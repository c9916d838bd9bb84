"""Published PyTorch checkpoints → model folders."""

from .download import USUAL, Planned, download
from .folder import convert
from .job import Progress
from .precision import Quantization
from .publish import upload

__all__ = ["USUAL", "Planned", "Progress", "Quantization", "convert", "download", "upload"]
