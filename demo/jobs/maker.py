"""Run a job and save its clip."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from mlx_happyhorse.notes import listening
from mlx_happyhorse.outputs.latents import Latents
from mlx_happyhorse.pipeline.happyhorse import HappyHorse
from mlx_happyhorse.pipeline.state import State
from mlx_happyhorse.pipeline.writer import ClipWriter
from mlx_happyhorse.runtime.runs import States

from .orders import Job


class Maker:
    """Holds the loaded model. Only one thread may use it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model, self.horse = "", HappyHorse.load("tiny")

    def make(self, job: Job) -> None:
        """Run a job to its end. Raises Stopped if the job was stopped, HappyHorseError if it failed."""
        name = datetime.now().strftime("clip-%Y%m%d-%H%M%S.mp4")
        writer = ClipWriter(str(self.folder / name), latents=job.order.latents is None)
        try:
            with listening(job.notes.append), closing(self._start(job)) as states:
                self._follow(states, job, writer)
        finally:
            writer.discard()

    def _follow(self, states: States[State], job: Job, writer: ClipWriter) -> None:
        for state in states:
            job.on_state(state)
            writer.add(state)
            if job.stopping.is_set():
                states.stop()
        latents = list(writer.kept)
        job.on_save()
        job.file = writer.save().path
        job.latents = latents[0] if latents and job.order.settings.get("upscale") is None else None

    def _start(self, job: Job) -> States[State]:
        order = job.order
        horse = self._load(order.model)
        options: dict[str, Any] = {"keep_frames": False, "preview": True}

        def on_block(done: int, total: int) -> None:
            job.on_block(done, total)
            if job.stopping.is_set():
                states.stop()

        if order.latents is not None:
            latents = Latents.load(order.latents)
            states = horse.finish(latents, on_block=on_block, **options, **order.settings)
        else:
            inputs: dict[str, Any] = {"image": order.image, "audio": order.audio}
            states = horse.stream(order.prompt, on_block=on_block, **inputs, **options, **order.settings)
        return states

    def _load(self, model: str) -> HappyHorse:
        if model != self.model:
            self.model, self.horse = model, HappyHorse.load(model)
        return self.horse
