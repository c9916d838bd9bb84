"""What was asked for, and how far it is."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mlx_happyhorse.pipeline.preview import encode_webp
from mlx_happyhorse.pipeline.state import State

JobState = Literal["queued", "running", "done", "stopped", "error"]


@dataclass(frozen=True)
class Order:
    """A clip as it is asked for. `settings` are those of `HappyHorse.stream`; with `latents`, a file that a
    finished clip was kept in, that clip is upscaled instead of made anew."""

    prompt: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    image: Path | None = None
    audio: Path | None = None
    latents: Path | None = None


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment. `place` is 1 for the next in the queue; `stages` are all that the run will pass,
    by their names in `State`; `share` is how much of the current stage is done, from 0 to 1; `preview` is a
    WebP image, animated where there are several latent frames; `settings` are those that the clip carries;
    `latents` is the file from which it can be upscaled."""

    id: str
    order: Order
    state: JobState
    place: int = 0
    stages: tuple[str, ...] = ()
    stage: str = ""
    step: int = 0
    steps: int = 0
    share: float = 0.0
    seconds_left: float = 0.0
    memory: int = 0
    preview: bytes | None = None
    notes: tuple[str, ...] = ()
    file: Path | None = None
    latents: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class Job:
    """An order on its way. Its own thread writes, others read snapshots."""

    def __init__(self, id: str, order: Order):
        self.id, self.order = id, order
        self.state: JobState = "queued"
        self.stopping = threading.Event()
        self.notes: list[str] = []
        self.file: Path | None = None
        self.latents: Path | None = None
        self.error = ""
        self.preview: bytes | None = None
        self.seen: State | None = None  # the last state, without its arrays
        self.block, self.seen_at = 0.0, 0.0  # how much of the step is done; when the state came

    @property
    def is_open(self) -> bool:
        return self.state in ("queued", "running")

    def stop(self) -> None:
        """End it where it is: in the queue at once, else at the next block."""
        self.stopping.set()
        if self.state == "queued":
            self.state = "stopped"

    def end(self, error: str | None) -> None:
        """Note how it ended: None well, "" stopped, else why it failed."""
        self.state = "done" if error is None else ("error" if error else "stopped")
        self.error = error or ""

    def see(self, state: State) -> None:
        """Note how far the run is."""
        if state.preview is not None:
            self.preview = encode_webp(state.preview)
        self.block, self.seen_at = 0.0, time.monotonic()
        self.seen = State(
            state.stage,
            state.step,
            state.steps,
            state.settings,
            seconds_left=state.seconds_left,
            memory=state.memory,
            plan=state.plan,
        )

    def save(self) -> None:
        """Note that all is decoded, and that the file is being completed."""
        if self.seen is not None:
            self.seen = replace(self.seen, stage="save", step=0, steps=1)

    def on_block(self, done: int, of: int) -> None:
        self.block = done / of

    def snapshot(self, place: int) -> Snapshot:
        seen = self.seen or State("", 0, 1, {})
        plan = seen.plan
        return Snapshot(
            self.id,
            self.order,
            self.state,
            place,
            stages=() if plan is None else tuple(stage.name for stage in plan.stages),
            stage=seen.stage,
            step=seen.step,
            steps=seen.steps,
            share=min((seen.step + self.block) / max(seen.steps, 1), 1.0),
            seconds_left=max(seen.seconds_left - (time.monotonic() - self.seen_at), 0.0),
            memory=seen.memory,
            preview=self.preview,
            notes=tuple(dict.fromkeys(self.notes)),
            file=self.file,
            latents=self.latents,
            settings=seen.settings,
            error=self.error,
        )
