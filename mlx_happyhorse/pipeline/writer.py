"""A run's states → the files of a clip: the mp4, and beside it settings and latents."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import HappyHorseError
from ..files import expanded, numbered, rename_without_replacing, temporary_beside
from ..notes import note
from ..outputs.latents import Latents
from ..outputs.mp4 import Mp4Writer, check_output
from ..planning.stage import StageName
from .progress import record_saving
from .state import State

VIDEO, SETTINGS, LATENTS = ".mp4", ".json", ".latents.safetensors"
BASE = f".before-upscaling{LATENTS}"


class Saved(NamedTuple):
    """A saved clip: its file, its `shape` (frames, height, width), its settings, and the seconds that went
    into encoding it."""

    path: Path
    shape: tuple[int, int, int]
    settings: dict[str, Any]
    seconds: float


class ClipWriter:
    """Saves the clips of one or more runs as `name` or, where that is taken, name_1, name_2 …

    `{seed}` in the name stands for the seed. Frames are encoded as they come."""

    def __init__(
        self, name: str, *, settings: bool = False, latents: bool = False, from_latents: bool = False
    ):
        """With `settings` and `latents` these are saved beside the clip; `from_latents` says that the clip's
        latents are there already. Raises RequestError for a name that cannot be written."""
        check_output(name.replace("{seed}", str(2**64 - 1)))
        self.name, self.with_settings, self.with_latents = name, settings, latents
        self.endings = (VIDEO, SETTINGS) if from_latents else (VIDEO, SETTINGS, LATENTS, BASE)
        self.clip: Path | None = None  # of the current run, once one of its files exists
        self.kept: dict[Path, str | None] = {}  # its latents, and to what size they will be upscaled
        self.not_kept: HappyHorseError | None = None  # why they could not be saved
        self.mp4: Mp4Writer | None = None
        self.settings: dict[str, Any] = {}
        self.seconds = 0.0  # that went into the file
        self.sound: np.ndarray | None = None

    def add(self, state: State) -> None:
        """Save finished latents and write decoded frames. Raises HappyHorseError where writing fails."""
        if state.stage in (StageName.DENOISE, StageName.UPSCALE) and state.step == state.steps:
            assert state.latents is not None
            self.keep(state.latents, state.settings["upscale"] if state.stage == StageName.DENOISE else None)
        started = time.monotonic()
        if state.sound is not None:
            self.sound = state.sound
        if state.frames is not None:
            if self.mp4 is None:
                self._begin(state.settings)
            assert self.mp4 is not None
            self.mp4.add(state.frames)
            self.seconds += time.monotonic() - started

    def _begin(self, settings: dict[str, Any]) -> None:
        assert self.sound is not None
        self.clip = self.clip or self._free_name(settings["seed"])
        self.mp4 = Mp4Writer(self.clip, self.sound, settings)
        self.settings, self.seconds = settings, 0.0

    def keep(self, latents: Latents, upscale: str | None = None) -> None:
        """Save latents as soon as they are finished, as later stages may fail; `upscale` is the size that
        they will be upscaled to. A failure is noted, and the clip goes on."""
        if not self.with_latents:
            return
        self.clip = self.clip or self._free_name(latents.settings["seed"])
        path = self.clip.with_suffix(BASE if upscale else LATENTS)
        try:
            latents.save(path)
            self.kept[path] = upscale
        except HappyHorseError as error:
            self.not_kept = error
            note(str(error))

    def save(self) -> Saved:
        """Complete the clip and give it its name. Raises HappyHorseError where that fails."""
        assert self.mp4 is not None
        started = time.monotonic()
        path = self.mp4.save(overwrite=False)
        seconds = self.seconds + time.monotonic() - started
        saved = Saved(path, self.mp4.shape, self.settings, seconds)
        record_saving(self.mp4.pixels, seconds)
        self.discard()
        self.clip, self.kept = None, {}
        if self.with_settings:
            _save_settings(self.settings, path.with_suffix(SETTINGS))
        return saved

    def discard(self) -> None:
        """Remove what there is of an incomplete clip."""
        if self.mp4 is not None:
            self.mp4.discard()
        self.mp4 = None

    def _free_name(self, seed: int | None) -> Path:
        for path in numbered(expanded(self.name.replace("{seed}", str(seed)))):
            files = path, *(path.with_suffix(ending) for ending in self.endings)
            if not any(file.exists() for file in files):
                return path
        raise AssertionError


def _save_settings(settings: dict[str, Any], path: Path) -> None:
    try:
        with temporary_beside(path) as beside:
            text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
            beside.write_text(text, encoding="utf-8")
            rename_without_replacing(beside, path)
    except OSError as error:
        raise HappyHorseError(f"{path} could not be written: {error.strerror or error}.") from error
