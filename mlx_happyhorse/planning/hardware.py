"""What this machine is and can: its chip, its memory, how fast it computes and reads."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from ..models.matmul import Work

GB = 10**9
DISPATCH_SECONDS = 0.5  # macOS ends what keeps the GPU for some five, sooner while the display is in use
MLP_ROWS, STREAMED_ROWS = 8192, 2048  # tokens that pass an MLP together


@dataclass(frozen=True)
class Chip:
    """TFLOP/s of bf16 products and GB/s of the internal disk, to plan with; from how many rows on quantized
    matrices are multiplied faster as dense ones."""

    tflops: float
    disk: float
    dense_rows: float = 1024


# Gathered from other projects' measurements and Apple's data, the lower end of every range: none is ours.
# The M5's own matrix units multiply quantized matrices well.
INF = float("inf")
CHIPS = {
    "M1": Chip(2, 2.7),
    "M1 Pro": Chip(4, 5),
    "M1 Max": Chip(8, 5),
    "M1 Ultra": Chip(15, 5),
    "M2": Chip(2.7, 1.6),
    "M2 Pro": Chip(5, 5),
    "M2 Max": Chip(10, 5),
    "M2 Ultra": Chip(19, 5),
    "M3": Chip(3, 2.6),
    "M3 Pro": Chip(5.3, 2.6),
    "M3 Max": Chip(11, 7),
    "M3 Ultra": Chip(17.4, 7),
    "M4": Chip(3.4, 3),
    "M4 Pro": Chip(6.8, 6),
    "M4 Max": Chip(13.5, 7.3),
    "M5": Chip(14, 6, INF),
    "M5 Pro": Chip(28, 13, INF),
    "M5 Max": Chip(53, 13.6, INF),
}
# A processor's own product of a quantized matrix is slow, and in bf16 inexact: benchmarks/dequantizing.py.
# Its speed is a guess until a run was timed.
PROCESSOR = Chip(0.05, 0.5, 1)
GRAPHICS = Chip(100, 2)


@dataclass(frozen=True)
class Machine:
    """`memory` is all there is, `usable` what a run may take of it, both in bytes; `backend` metal, cuda or
    cpu. `known` tells whether the chip is in the table."""

    name: str
    backend: str
    memory: int
    usable: int
    chip: Chip
    known: bool = True

    def work(self, streamed: bool = False) -> Work:
        """How much this chip is given to do at once, less where memory is short."""
        flops = self.chip.tflops * 1e12 * DISPATCH_SECONDS
        return Work(flops, STREAMED_ROWS if streamed else MLP_ROWS, self.chip.dense_rows)


def this_machine() -> Machine:
    info = mx.device_info()
    name = str(info.get("device_name", "unknown"))
    if mx.default_device() == mx.gpu and mx.metal.is_available():
        return mac(name, int(info["memory_size"]), int(info["max_recommended_working_set_size"]))
    if mx.default_device() == mx.gpu:
        memory = int(info["total_memory"])
        return Machine(name, "cuda", memory, int(0.9 * memory), GRAPHICS, known=False)
    memory = _memory()
    return Machine(name, "cpu", memory, int(0.9 * memory), PROCESSOR, known=False)


def mac(name: str, memory: int, usable: int) -> Machine:
    """A Mac by its chip's name; one that is not in the table counts as the nearest that is."""
    match = re.search(r"M(\d+)(?: (Pro|Max|Ultra))?", name)
    generation, kind = (int(match[1]), match[2] or "") if match else (1, "")
    wanted = f"M{generation} {kind}".strip()
    nearest = wanted
    while nearest not in CHIPS:
        generation -= 1
        if generation < 1:
            nearest = "M1"
            break
        nearest = f"M{generation} {kind}".strip()
    return Machine(name, "metal", memory, usable, CHIPS[nearest], known=wanted in CHIPS and match is not None)


def _memory() -> int:
    """Bytes of RAM, or as many as this process's container allows."""
    amounts = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            amounts.append(int(Path(file).read_text()))
        except (OSError, ValueError):
            continue
    return min(amounts)
