"""What a run will take on a machine: memory and seconds, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass

from ..inputs.request import Request
from ..runtime.memory import CACHE_BYTES
from .hardware import GB, Machine
from .stage import StageName

PROCESS = 400 * 2**20  # bytes of Python, the libraries, and frames on their way into the file
LARGEST = 2**31  # elements of an array: MLX's kernels count them in 32 bits
WITH_FRAMES = (StageName.PICTURE, StageName.SAVE)


@dataclass(frozen=True)
class StagePlan:
    """One stage: `bytes` at its peak, as MLX counts them; `seconds`; its `work` in floating point operations
    (of "save": pixels); the `kind` under which its speed is recorded; whether its weights are `streamed`;
    and the `elements` of its largest array."""

    name: StageName
    bytes: int
    seconds: float
    work: float
    kind: str
    streamed: bool = False
    elements: int = 0


@dataclass(frozen=True)
class Inputs:
    """What a run is given beside its settings: a first frame, a recording, prompts that must be encoded.

    `begin` is the first stage: "text", or "upscale" or "sound" for kept latents. With `keep_frames` all
    frames are in memory at the end."""

    picture: bool = False
    recording: bool = False
    texts: tuple[str, ...] = ()
    begin: StageName = StageName.TEXT
    keep_frames: bool = False


@dataclass(frozen=True)
class Plan:
    """The stages of a run on a machine. `recorded` is True where all times come from earlier runs on it."""

    machine: Machine
    request: Request
    inputs: Inputs
    stages: tuple[StagePlan, ...]
    recorded: bool

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def needed(self) -> int:
        """Peak memory of the process, in bytes."""
        return max(map(self._needed, self.stages))

    def _needed(self, stage: StagePlan) -> int:
        kept = self.inputs.keep_frames and stage.name in WITH_FRAMES
        return peak_memory(stage.bytes) + (3 * self.request.final_geometry.pixels if kept else 0)

    @property
    def fits(self) -> bool:
        return self.needed <= self.machine.usable and self.longest.elements < LARGEST

    @property
    def highest(self) -> StagePlan:
        """The stage with the highest peak."""
        return max(self.stages, key=self._needed)

    @property
    def longest(self) -> StagePlan:
        """The stage with the largest array."""
        return max(self.stages, key=lambda stage: stage.elements)

    @property
    def low_ram(self) -> bool:
        """Whether the weights of at least one stage are streamed."""
        return any(stage.streamed for stage in self.stages)

    def __str__(self) -> str:
        """Return a summary of one line."""
        geometry, how = self.request.final_geometry, ", weights streamed" if self.low_ram else ""
        return (
            f"≈ {duration(self.seconds)} · peak {self.needed / GB:.1f} of {self.machine.memory / GB:.0f} GB"
            f" · {geometry.width}×{geometry.height}, {geometry.frames} frames{how}"
        )

    def table(self) -> str:
        """Return a table of the stages, and the summary."""
        rows = [f"{'stage':<10}{'memory':>10}{'time':>14}"]
        for stage in self.stages:
            rows.append(f"{stage.name:<10}{stage.bytes / GB:>7.2f} GB{duration(stage.seconds):>14}")
        source = (
            "times measured in earlier runs" if self.recorded else "times are estimates, not measured here"
        )
        rows.append(f"{self.machine.name}, {self.machine.usable / GB:.1f} GB may be used; {source}")
        return "\n".join([*rows, str(self)])


def duration(seconds: float) -> str:
    """Return a rounded duration: 8 s, 6 min, 1 h 20 min."""
    if seconds < 99.5:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def peak_memory(peak: int) -> int:
    """Return the memory of the process for a peak of MLX's arrays: with MLX's cache and the rest."""
    return peak + min(peak, CACHE_BYTES) + PROCESS
