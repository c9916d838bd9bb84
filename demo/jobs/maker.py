"""One job → its clip."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from mlx_happyhorse.notes import told_to
from mlx_happyhorse.outputs.latents import Latents
from mlx_happyhorse.pipeline.happyhorse import HappyHorse
from mlx_happyhorse.pipeline.state import State
from mlx_happyhorse.pipeline.writer import Output
from mlx_happyhorse.runtime.runs import States

from .orders import Job


class Maker:
    """Owns the models; one thread uses it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model, self.horse = "", HappyHorse.load("tiny")

    def make(self, job: Job) -> None:
        """Run a job to its end. Raises Stopped where it was told to, and HappyHorseError."""
        name = datetime.now().strftime("clip-%Y%m%d-%H%M%S.mp4")
        output = Output(str(self.folder / name), latents=job.order.latents is None)
        try:
            with told_to(job.notes.append), closing(self._begin(job)) as states:
                self._follow(states, job, output)
        finally:
            output.drop()

    def _follow(self, states: States[State], job: Job, output: Output) -> None:
        for state in states:
            job.see(state)
            output.take(state)
            if job.stopping.is_set():
                states.stop()
        kept = list(output.kept)
        job.save()
        job.file = output.save().path
        job.latents = kept[0] if kept and job.order.settings.get("upscale") is None else None

    def _begin(self, job: Job) -> States[State]:
        order = job.order
        horse = self._load(order.model)
        options: dict[str, Any] = {"keep_frames": False, "preview": True}

        def on_block(done: int, of: int) -> None:
            job.on_block(done, of)
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
