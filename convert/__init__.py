"""Published PyTorch checkpoints → model folders."""

from .download import USUAL, Planned, download
from .folder import convert, inspect
from .job import Progress
from .precision import Quantization
from .publish import upload
from .repair import fix

__all__ = ["USUAL", "Planned", "Progress", "Quantization", "convert", "download", "fix", "inspect", "upload"]
