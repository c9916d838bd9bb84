"""The files of a clip, which lie beside each other under one name."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import numbered, written_beside
from .terminal import say

if TYPE_CHECKING:
    from ..latents import Latents
    from ..media import Clip

VIDEO, SETTINGS, LATENTS = ENDINGS = ".mp4", ".json", ".latents.safetensors"


class Output:
    """Saves under `name` or, where that is taken, under name_1, name_2 …; {seed} stands for the seed."""

    def __init__(self, name: str, *, settings: bool = False, latents: bool = False):
        from ..media import check_output

        check_output(name.replace("{seed}", "0"))
        self.name, self.with_settings, self.with_latents = name, settings, latents
        self.kept: Path | None = None  # the latents of the clip in the making

    def keep(self, latents: Latents) -> None:
        """Saves latents as soon as they are there: what comes after may fail, and took less."""
        if self.with_latents:
            path = self._free(latents.settings["seed"]).with_suffix(LATENTS)
            latents.save(path)
            self.kept = path

    def say_what_is_kept(self) -> None:
        if self.kept is not None:
            say(f"The latents are kept: happyhorse decode {self.kept}")

    def save(self, clip: Clip, started: float) -> None:
        """Saves the clip and says so; `started` is when its making began."""
        if self.kept is not None:
            path = self.kept.with_name(self.kept.name.removesuffix(LATENTS) + VIDEO)
        else:
            path = self._free(clip.settings["seed"])
        path = clip.save(path, overwrite=False)
        if self.with_settings:
            with written_beside(path.with_suffix(SETTINGS)) as beside:
                beside.write_text(json.dumps(clip.settings, indent=2, ensure_ascii=False) + "\n")
        self.kept = None
        frames, height, width, _ = clip.video.shape
        say(
            f"{path}: {frames} frames of {width}×{height}, {frames / clip.fps:.2f} s, "
            f"seed {clip.settings['seed']}, made in {time.monotonic() - started:.1f} s"
        )

    def _free(self, seed: int | None) -> Path:
        wanted = Path(self.name.replace("{seed}", str(seed))).expanduser()
        for path in numbered(wanted):
            if not any(path.with_suffix(ending).exists() for ending in ENDINGS):
                return path
        raise AssertionError
