"""A run's states → the files of a clip, which lie beside each other under one name."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import HappyHorseError
from ..files import expanded, numbered, partial_beside, rename_to_free
from ..notes import note
from ..outputs.latents import Latents
from ..outputs.mp4 import Mp4Writer, check_output
from .progress import record_saving

if TYPE_CHECKING:
    from .state import State

VIDEO, SETTINGS, LATENTS = ".mp4", ".json", ".latents.safetensors"
LATENT_STAGES = ("denoise", "upscale")
BASE = f".before-upscaling{LATENTS}"


class Saved(NamedTuple):
    """A clip's file; its `shape` is (frames, height, width)."""

    path: Path
    shape: tuple[int, int, int]
    settings: dict[str, Any]


class Output:
    """Saves under `name` or, where that is taken, under name_1, name_2 …; {seed} stands for the seed."""

    def __init__(
        self, name: str, *, settings: bool = False, latents: bool = False, from_latents: bool = False
    ):
        """With `settings` and `latents` those are files beside the clip; `from_latents` says that its
        latents lie there already."""
        check_output(name.replace("{seed}", str(2**64 - 1)))
        self.name, self.with_settings, self.with_latents = name, settings, latents
        self.endings = (VIDEO, SETTINGS) if from_latents else (VIDEO, SETTINGS, LATENTS, BASE)
        self.clip: Path | None = None  # the one in the making, once there is a file of it
        self.kept: dict[Path, str | None] = {}  # its latents, and to what size they will be upscaled
        self.not_kept: HappyHorseError | None = None  # why they are not
        self.film: Mp4Writer | None = None
        self.settings: dict[str, Any] = {}  # those of the clip
        self.writing = 0.0  # seconds that went into its file
        self.sound: np.ndarray | None = None

    def keep(self, latents: Latents, upscale: str | None = None) -> None:
        """Saves latents as soon as they are there, as what comes after may fail; `upscale` says to what
        size they will be upscaled."""
        if not self.with_latents:
            return
        self.clip = self.clip or self._free(latents.settings["seed"])
        path = self.clip.with_suffix(BASE if upscale else LATENTS)
        try:
            latents.save(path)
            self.kept[path] = upscale
        except HappyHorseError as error:  # no reason to lose the clip too
            self.not_kept = error
            note(str(error))

    def take(self, state: State) -> None:
        """Keep finished latents, and write what has been decoded. Raises HappyHorseError where that fails."""
        if state.stage in LATENT_STAGES and state.step == state.steps and state.latents is not None:
            self.keep(state.latents, state.settings["upscale"] if state.stage == "denoise" else None)
        started = time.monotonic()
        if state.sound is not None:
            self.sound = state.sound
        if state.frames is not None:
            if self.film is None:
                self.clip = self.clip or self._free(state.settings["seed"])
                assert self.sound is not None
                self.film = Mp4Writer(self.clip, self.sound, state.settings)
                self.settings, self.writing = state.settings, 0.0
            self.film.add(state.frames)
            self.writing += time.monotonic() - started

    def drop(self) -> None:
        """Leaves nothing of a clip that is not whole."""
        if self.film is not None:
            self.film.drop()
        self.film = None

    def save(self) -> Saved:
        """Complete the clip. Raises HappyHorseError if that fails, or if its latents could not be kept."""
        assert self.film is not None
        before = time.monotonic()
        path = self.film.save(overwrite=False)
        shape = self.film.shape
        record_saving(self.film.pixels, self.writing + time.monotonic() - before)
        self.drop()
        self.clip, self.kept = None, {}
        if self.with_settings:
            _save_settings(self.settings, path.with_suffix(SETTINGS))
        return Saved(path, shape, self.settings)

    def _free(self, seed: int | None) -> Path:
        wanted = expanded(self.name.replace("{seed}", str(seed)))
        for path in numbered(wanted):
            files = path, *(path.with_suffix(ending) for ending in self.endings)
            if not any(file.exists() for file in files):
                return path
        raise AssertionError


def _save_settings(settings: dict[str, Any], path: Path) -> None:
    try:
        with partial_beside(path) as beside:
            text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
            beside.write_text(text, encoding="utf-8")
            rename_to_free(beside, path)
    except OSError as error:
        raise HappyHorseError(f"{path} could not be written: {error.strerror or error}.") from error
