"""Times a model on this machine, stage by stage: a cold run, and warm ones after it."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..outputs import metadata
from ..outputs.mp4 import Mp4Writer
from ..planning.hardware import GB
from ..planning.plan import Plan, duration
from .progress import record_saving

if TYPE_CHECKING:
    from .happyhorse import HappyHorse
    from .state import State

PROMPT = (
    "A woman in a red coat stands on a beach in the morning, faces the camera and speaks calmly while waves "
    "roll in behind her and her hair moves in the wind."
)


@dataclass(frozen=True)
class Result:
    """What a stage took: seconds of the first run, and the shortest of the later ones; bytes at its peak,
    as MLX counts them; and both as planned before the first run."""

    stage: str
    cold: float
    warm: float
    bytes: int
    planned_seconds: float
    planned_bytes: int


@dataclass(frozen=True)
class Report:
    """`tokens` are those of the sequence that is denoised, as far as they are known beforehand."""

    chip: str
    memory: int
    versions: dict[str, str]
    model: str
    bits: str
    low_ram: bool
    size: tuple[int, int]
    frames: int
    steps: int
    tokens: int
    stages: tuple[Result, ...]

    @property
    def seconds(self) -> float:
        """Of a warm run."""
        return sum(stage.warm for stage in self.stages)

    def __str__(self) -> str:
        """One line to share."""
        width, height = self.size
        parts = ", ".join(f"{stage.stage} {stage.warm:.1f}" for stage in self.stages)
        peak = max(stage.bytes for stage in self.stages) / GB
        return (
            f"{self.chip} {self.memory / GB:.0f} GB · {self.model} {self.bits}"
            f"{' streamed' if self.low_ram else ''} · {width}×{height}, {self.frames} frames, "
            f"{self.steps} steps, {self.tokens} tokens · {duration(self.seconds)} ({parts} s) · "
            f"peak {peak:.1f} GB · mlx {self.versions['mlx']}"
        )

    def table(self) -> str:
        rows = [f"{'stage':<10}{'cold':>10}{'warm':>10}{'planned':>10}{'peak':>12}{'planned':>12}"]
        for x in self.stages:
            times = f"{x.cold:>8.2f} s{x.warm:>8.2f} s{x.planned_seconds:>8.2f} s"
            rows.append(f"{x.stage:<10}{times}{x.bytes / 1e6:>9,.0f} MB{x.planned_bytes / 1e6:>9,.0f} MB")
        return "\n".join(rows)

    def json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def bench(
    horse: HappyHorse,
    settings: dict[str, Any],
    runs: int,
    show: Callable[[Iterable[State]], Iterable[State]],
    force: bool = False,
) -> Report:
    """Makes the clip `runs` times, at least twice, into a file that is thrown away. `show` passes the states
    of a run on. Raises RequestError for fewer runs, and what HappyHorse.stream raises."""
    if runs < 2:
        raise RequestError(f"it takes two runs, a cold and a warm one, not {runs}.")
    texts = {PROMPT, *horse.request(PROMPT, **settings).avoided.values()}
    horse.forget_texts(texts)
    plan, found = horse.plan(PROMPT, keep_frames=False, **settings), []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            horse.forget_texts(texts)
            found.append(_run(horse, settings, Path(folder) / "clip.mp4", show, force))
    stages = []
    for stage in plan.stages:
        times = [run[stage.name][0] for run in found]
        peak = max(run[stage.name][1] for run in found)
        stages.append(Result(stage.name, times[0], min(times[1:]), peak, stage.seconds, stage.bytes))
    return _report(horse, plan, tuple(stages))


def _run(
    horse: HappyHorse,
    settings: dict[str, Any],
    file: Path,
    show: Callable[[Iterable[State]], Iterable[State]],
    force: bool,
) -> dict[str, tuple[float, int]]:
    """By stage: seconds and bytes."""
    states = horse.stream(PROMPT, keep_frames=False, seed=0, force=force, **settings)
    film: Mp4Writer | None = None
    saving = 0.0
    for state in show(states):
        started = time.monotonic()
        if state.sound is not None:
            film = Mp4Writer(file, state.sound, state.settings)
        if state.frames is not None and film is not None:
            film.add(state.frames)
            saving += time.monotonic() - started
        taken = state.taken
    assert film is not None
    started = time.monotonic()
    film.save()
    film.drop()
    saving += time.monotonic() - started
    record_saving(film.pixels, saving)
    return {x.stage: (x.seconds, x.bytes) for x in taken} | {"save": (saving, 0)}


def _report(horse: HappyHorse, plan: Plan, stages: tuple[Result, ...]) -> Report:
    request = plan.request
    frames, height, width = request.latent_shapes[0]
    return Report(
        chip=plan.machine.name,
        memory=plan.machine.memory,
        versions=metadata.envelope()["versions"],
        model=horse.name,
        bits=horse.bits,
        low_ram=plan.low_ram,
        size=request.final_size,
        frames=request.frames,
        steps=request.steps,
        tokens=frames * (height // 2) * (width // 2) + request.sounds,
        stages=stages,
    )
