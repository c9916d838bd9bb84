"""Benchmark a model on this machine, stage by stage: a cold run, then warm ones."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..outputs import metadata
from ..planning.hardware import GB
from ..planning.plan import Plan, duration
from ..planning.stage import StageName
from .happyhorse import HappyHorse
from .state import State
from .writer import ClipWriter

PROMPT = (
    "A woman in a red coat stands on a beach in the morning, faces the camera and speaks calmly while waves "
    "roll in behind her and her hair moves in the wind."
)


@dataclass(frozen=True)
class Result:
    """One stage: seconds of the cold run and of the fastest warm one, bytes at its peak, as MLX counts them,
    and both as planned before the first run."""

    stage: str
    cold: float
    warm: float
    bytes: int
    planned_seconds: float
    planned_bytes: int


@dataclass(frozen=True)
class Report:
    """The results of a benchmark; `tokens` are the video and audio tokens of the base stage."""

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
        """Seconds of a warm run."""
        return sum(stage.warm for stage in self.stages)

    def __str__(self) -> str:
        """Return one line to share."""
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


Show = Callable[[Iterable[State]], Iterable[State]]  # passes the states of a run on


def bench(horse: HappyHorse, settings: dict[str, Any], runs: int, show: Show, force: bool = False) -> Report:
    """Make the clip `runs` times, at least twice, in a temporary folder.

    Raises RequestError for fewer runs, and what HappyHorse.stream raises."""
    if runs < 2:
        raise RequestError(f"a benchmark needs a cold and a warm run: at least 2 runs, not {runs}.")
    prompts = horse.request(PROMPT, **settings).prompts
    horse.forget_texts(prompts)
    plan, results = horse.plan(PROMPT, keep_frames=False, **settings), []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            horse.forget_texts(prompts)
            results.append(_run(horse, settings, Path(folder) / "clip.mp4", show, force))
    stages = []
    for stage in plan.stages:
        times = [run[stage.name][0] for run in results]
        peak = max(run[stage.name][1] for run in results)
        stages.append(Result(stage.name, times[0], min(times[1:]), peak, stage.seconds, stage.bytes))
    return _report(horse, plan, tuple(stages))


def _run(
    horse: HappyHorse, settings: dict[str, Any], file: Path, show: Show, force: bool
) -> dict[str, tuple[float, int]]:
    """Return seconds and peak bytes by stage."""
    writer = ClipWriter(str(file))
    try:
        for state in show(horse.stream(PROMPT, keep_frames=False, seed=0, force=force, **settings)):
            writer.add(state)
        saved = writer.save()
    finally:
        writer.discard()
    taken: dict[str, tuple[float, int]] = {x.stage: (x.seconds, x.bytes) for x in state.taken}
    return taken | {StageName.SAVE: (saved.seconds, 0)}


def _report(horse: HappyHorse, plan: Plan, stages: tuple[Result, ...]) -> Report:
    request = plan.request
    return Report(
        chip=plan.machine.name,
        memory=plan.machine.memory,
        versions=metadata.envelope()["versions"],
        model=horse.name,
        bits=horse.bits,
        low_ram=plan.low_ram,
        size=request.final_size,
        frames=request.geometry.frames,
        steps=request.steps,
        tokens=request.geometry.video_tokens + request.geometry.audio_latents,
        stages=stages,
    )
