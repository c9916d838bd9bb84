"""Video with sound from text, in MLX: the HappyHorse-1.0 architecture on Apple silicon."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import HappyHorseError, HubError, ModelError, RequestError
from .version import __version__

if TYPE_CHECKING:
    from .latents import Latents
    from .media import Clip
    from .pipeline import HappyHorse
    from .prompts import Line, Prompt
    from .run import State

__all__ = [
    "Clip",
    "HappyHorse",
    "HappyHorseError",
    "HubError",
    "Latents",
    "Line",
    "ModelError",
    "Prompt",
    "RequestError",
    "State",
    "__version__",
]
HOMES = {
    "Clip": ".media",
    "HappyHorse": ".pipeline",
    "Latents": ".latents",
    "Line": ".prompts",
    "Prompt": ".prompts",
    "State": ".run",
}


def __getattr__(name: str) -> Any:
    """Loads MLX and the media libraries when they are first needed, so that help comes at once."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name], __name__), name)
