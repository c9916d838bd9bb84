"""Published PyTorch checkpoints → model folders."""

from .folder import convert
from .precision import Quantization

__all__ = ["Quantization", "convert"]
