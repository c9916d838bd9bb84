"""Orders, the jobs that carry them out, and snapshots of those."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mlx_happyhorse.pipeline.preview import encode_webp
from mlx_happyhorse.pipeline.state import State
from mlx_happyhorse.planning.stage import StageName

JobState = Literal["queued", "running", "done", "stopped", "error"]
OPEN: tuple[JobState, ...] = ("queued", "running")


@dataclass(frozen=True)
class Order:
    """A request for a clip. `settings` are the keyword arguments of `HappyHorse.stream`; with `latents`, the
    file of a finished clip's latents, that clip is upscaled and no new one is generated."""

    prompt: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    image: Path | None = None
    audio: Path | None = None
    latents: Path | None = None


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment.

    `place` is its position in the queue, from 1. `stages` are the names of all stages of the run; `share` is
    the part of the current stage that is done, from 0 to 1. `memory` is in bytes. `preview` is a WebP image,
    animated if there are several latent frames. `settings` are those saved in the clip, `latents` the file
    that the clip can be upscaled from."""

    id: str
    order: Order
    state: JobState
    place: int = 0
    stages: tuple[str, ...] = ()
    stage: str = ""
    step: int = 0
    steps: int = 1
    share: float = 0.0
    seconds_left: float = 0.0
    memory: int = 0
    preview: bytes | None = None
    notes: tuple[str, ...] = ()
    file: Path | None = None
    latents: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def is_open(self) -> bool:
        return self.state in OPEN


class Job:
    """An order in the queue. The queue's thread changes it; other threads read snapshots."""

    def __init__(self, id: str, order: Order):
        self.id, self.order = id, order
        self.state: JobState = "queued"
        self.stopping = threading.Event()
        self.notes: list[str] = []
        self.file: Path | None = None
        self.latents: Path | None = None
        self.error = ""
        self.preview: bytes | None = None
        self.progress: State | None = None  # the last state, without its arrays
        self.progress_at = 0.0  # when that state came, by time.monotonic()
        self.block = 0.0  # the part of the current step that is done

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    def stop(self) -> None:
        """Stop the job: at once in the queue, else at the next block."""
        self.stopping.set()
        if self.state == "queued":
            self.state = "stopped"

    def end(self, error: str | None) -> None:
        """Record the result: None is success, "" stopped, anything else the error."""
        self.state = "done" if error is None else ("error" if error else "stopped")
        self.error = error or ""

    def on_state(self, state: State) -> None:
        """Record the progress and the preview of a run, and none of its arrays."""
        if state.preview is not None:
            self.preview = encode_webp(state.preview)
        self.block, self.progress_at = 0.0, time.monotonic()
        self.progress = State(
            state.stage,
            state.step,
            state.steps,
            state.settings,
            seconds_left=state.seconds_left,
            memory=state.memory,
            plan=state.plan,
        )

    def on_block(self, done: int, total: int) -> None:
        """Record the progress within a step."""
        self.block = done / total

    def on_save(self) -> None:
        """Record that everything is decoded and the file is being completed."""
        if self.progress is not None:
            self.progress = replace(self.progress, stage=StageName.SAVE, step=0, steps=1)

    def snapshot(self, place: int) -> Snapshot:
        """Return the job as it is now, at `place` in the queue."""
        snapshot = Snapshot(
            self.id,
            self.order,
            self.state,
            place,
            preview=self.preview,
            notes=tuple(dict.fromkeys(self.notes)),
            file=self.file,
            latents=self.latents,
            error=self.error,
        )
        now = self.progress
        if now is None:
            return snapshot
        return replace(
            snapshot,
            stages=() if now.plan is None else tuple(stage.name for stage in now.plan.stages),
            stage=now.stage,
            step=now.step,
            steps=now.steps,
            share=min((now.step + self.block) / max(now.steps, 1), 1.0),
            seconds_left=max(now.seconds_left - (time.monotonic() - self.progress_at), 0.0),
            memory=now.memory,
            settings=now.settings,
        )
