"""Video with sound from text, in MLX: the HappyHorse-1.0 architecture on Apple silicon."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import HappyHorseError, ModelError, RequestError
from .version import __version__

if TYPE_CHECKING:
    from .media import Clip
    from .pipeline import HappyHorse, State

__all__ = ["Clip", "HappyHorse", "HappyHorseError", "ModelError", "RequestError", "State", "__version__"]


def __getattr__(name: str) -> Any:
    """Loads MLX and the media libraries when they are first needed, so that help comes at once."""
    home = {"Clip": ".media", "HappyHorse": ".pipeline", "State": ".pipeline"}.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home, __name__), name)
