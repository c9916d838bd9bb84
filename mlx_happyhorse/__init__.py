"""Video with sound from text, in MLX: the HappyHorse-1.0 architecture on Apple silicon."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    BrokenRun,
    DoesNotFit,
    HappyHorseError,
    HubError,
    ModelError,
    NoRevision,
    NotResponding,
    OutOfResources,
    RequestError,
    Stopped,
    Suggestion,
)
from .version import __version__

if TYPE_CHECKING:
    from .diffusion.sampling import Step
    from .inputs.picture import fit_picture, open_picture
    from .inputs.prompts import Line, Prompt
    from .inputs.recording import Recording, open_recording
    from .inputs.request import Request, Settings
    from .outputs.clip import Clip
    from .outputs.latents import Latents
    from .pipeline.happyhorse import HappyHorse
    from .pipeline.state import State
    from .planning.plan import Plan

__all__ = [
    "BrokenRun",
    "Clip",
    "DoesNotFit",
    "HappyHorse",
    "HappyHorseError",
    "HubError",
    "Latents",
    "Line",
    "ModelError",
    "NoRevision",
    "NotResponding",
    "OutOfResources",
    "Plan",
    "Prompt",
    "Recording",
    "Request",
    "RequestError",
    "Settings",
    "State",
    "Step",
    "Stopped",
    "Suggestion",
    "__version__",
    "fit_picture",
    "open_picture",
    "open_recording",
]
# What needs MLX or the media libraries is imported when it is first used: `import` and `--help` stay fast.
_LAZY = {
    "Clip": ".outputs.clip",
    "HappyHorse": ".pipeline.happyhorse",
    "Latents": ".outputs.latents",
    "Line": ".inputs.prompts",
    "Plan": ".planning.plan",
    "Prompt": ".inputs.prompts",
    "Recording": ".inputs.recording",
    "Request": ".inputs.request",
    "Settings": ".inputs.request",
    "State": ".pipeline.state",
    "Step": ".diffusion.sampling",
    "fit_picture": ".inputs.picture",
    "open_picture": ".inputs.picture",
    "open_recording": ".inputs.recording",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
