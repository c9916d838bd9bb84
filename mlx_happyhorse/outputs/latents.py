"""The latents of a run, with all that decoding or upscaling them later needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
from PIL import Image

from ..errors import HappyHorseError, RequestError
from ..files import atomic_write, expanded
from . import metadata


@dataclass
class Latents:
    """`video` (frames, h, w, 48) and `audio` (n, 64), fp32, and the run's `settings`; the `picture` of the
    first frame, and the `soundtrack` (samples, 2) at 44,100 Hz, where the run was given them."""

    video: mx.array
    audio: mx.array
    settings: dict[str, Any]
    picture: Image.Image | None = None
    soundtrack: np.ndarray | None = None

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, completely or not at all. Raise HappyHorseError where that fails."""
        arrays = {"video": self.video, "audio": self.audio}
        if self.picture is not None:
            arrays["picture"] = mx.array(np.asarray(self.picture))
        if self.soundtrack is not None:
            arrays["soundtrack"] = mx.array(self.soundtrack)
        try:
            with atomic_write(expanded(path)) as beside, beside.open("wb") as file:
                mx.save_safetensors(file, arrays, {"settings": json.dumps(self.settings)})
        except (OSError, RuntimeError) as error:
            raise HappyHorseError(f"{path} could not be written: {error}.") from error

    @classmethod
    def load(cls, path: str | Path) -> Latents:
        """Read a file that `save` wrote. Raise RequestError for anything else."""
        path = expanded(path)
        try:
            arrays, about = cast(
                tuple[dict[str, mx.array], dict[str, str]],
                mx.load(str(path), format="safetensors", return_metadata=True),
            )
            if sum(array.nbytes for array in arrays.values()) > path.stat().st_size:
                raise ValueError("it is cut off")
            if not all(array.size and mx.isfinite(array).all().item() for array in arrays.values()):
                raise ValueError("it is empty, or contains NaN or infinity")
        except (OSError, RuntimeError, ValueError) as error:
            raise RequestError(f"{path} is not a file of latents, or it is damaged.") from error
        settings = metadata.parse(about.get("settings", ""), str(path))
        picture, soundtrack = arrays.get("picture"), arrays.get("soundtrack")
        kinds = {"video": (4, mx.float32), "audio": (2, mx.float32)}
        kinds |= {"picture": (3, mx.uint8), "soundtrack": (2, mx.float32)}
        found = {name: (array.ndim, array.dtype) for name, array in arrays.items()}
        if (
            not {"video", "audio"} <= found.keys()
            or any(kinds.get(k) != v for k, v in found.items())
            or (picture is not None and picture.shape[2] != 3)
            or (soundtrack is not None and soundtrack.shape[1] != 2)
        ):
            raise RequestError(f"{path} does not contain a clip's latents.")
        return cls(
            arrays["video"],
            arrays["audio"],
            settings,
            None if picture is None else Image.fromarray(np.array(picture)),
            None if soundtrack is None else np.array(soundtrack),
        )
