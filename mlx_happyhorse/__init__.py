"""Video with sound from text, in MLX: the HappyHorse-1.0 architecture on Apple silicon."""

from .errors import HappyHorseError, ModelError, RequestError
from .media import Clip
from .pipeline import HappyHorse, State
from .version import __version__

__all__ = ["Clip", "HappyHorse", "HappyHorseError", "ModelError", "RequestError", "State", "__version__"]
