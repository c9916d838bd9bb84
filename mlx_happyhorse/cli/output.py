"""The files of a clip, which lie beside each other under one name."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import HappyHorseError
from ..files import numbered, partial_beside, rename_to_free
from .terminal import say

if TYPE_CHECKING:
    from ..latents import Latents
    from ..media import Clip

VIDEO, SETTINGS, LATENTS = ENDINGS = ".mp4", ".json", ".latents.safetensors"


class Output:
    """Saves under `name` or, where that is taken, under name_1, name_2 …; {seed} stands for the seed."""

    def __init__(self, name: str, *, settings: bool = False, latents: bool = False):
        from ..media import check_output

        check_output(name.replace("{seed}", str(2**64 - 1)))
        self.name, self.with_settings, self.with_latents = name, settings, latents
        self.kept: Path | None = None  # the latents of the clip in the making
        self.not_kept: HappyHorseError | None = None  # why they are not

    def keep(self, latents: Latents) -> None:
        """Saves latents as soon as they are there: what comes after may fail, and took less."""
        if not self.with_latents or self.kept is not None:
            return
        path = self._free(latents.settings["seed"]).with_suffix(LATENTS)
        try:
            latents.save(path)
            self.kept, self.not_kept = path, None
        except HappyHorseError as error:  # no reason to lose the clip too
            self.not_kept = error
            say(f"Note: {error}")

    def say_what_is_kept(self) -> None:
        if self.kept is not None:
            say(f"The latents are kept: happyhorse decode {self.kept}")

    def save(self, clip: Clip, started: float) -> None:
        """Saves the clip and says so; `started` is when its making began. Raises HappyHorseError if that
        fails, or if its latents could not be kept."""
        path = clip.save(self._beside_latents() or self._free(clip.settings["seed"]), overwrite=False)
        self.kept = None
        if self.with_settings:
            with partial_beside(path) as beside:
                beside.write_text(json.dumps(clip.settings, indent=2, ensure_ascii=False) + "\n")
                rename_to_free(beside, path.with_suffix(SETTINGS))
        frames, height, width, _ = clip.video.shape
        say(
            f"{path}: {frames} frames of {width}×{height}, {frames / clip.fps:.2f} s, "
            f"seed {clip.settings['seed']}, made in {time.monotonic() - started:.1f} s"
        )
        if self.not_kept is not None:
            raise self.not_kept

    def _beside_latents(self) -> Path | None:
        if self.kept is None:
            return None
        clip = self.kept.with_name(self.kept.name.removesuffix(LATENTS) + VIDEO)
        return next(p for p in numbered(clip) if not _taken(p, (VIDEO, SETTINGS)))

    def _free(self, seed: int | None) -> Path:
        wanted = Path(self.name.replace("{seed}", str(seed))).expanduser()
        for path in numbered(wanted):
            if not _taken(path, ENDINGS):
                return path
        raise AssertionError


def _taken(path: Path, endings: tuple[str, ...]) -> bool:
    return path.exists() or any(path.with_suffix(ending).exists() for ending in endings)
