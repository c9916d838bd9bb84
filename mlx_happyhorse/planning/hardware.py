"""This machine: chip, memory, and how fast it computes and reads."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from ..models.matmul import Work

GB = 10**9
DISPATCH_SECONDS = 0.5  # macOS ends commands that keep the GPU for about five, sooner with the display on
MLP_ROWS, STREAMED_ROWS = 8192, 2048  # tokens in one chunk of an MLP: bounds memory, little else


@dataclass(frozen=True)
class Chip:
    """Estimates to plan with: bf16 TFLOP/s, GB/s of the internal disk, and the number of rows from which
    dequantizing a matrix before the product is faster."""

    tflops: float
    disk: float
    dense_rows: float = 1024


# The lower end of what Apple and other projects report; none was measured by this project. The M5's matrix
# units multiply quantized matrices directly.
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
# A CPU multiplies quantized matrices slowly, and in bf16 inexactly: benchmarks/dequantizing.py. The speeds
# of CPUs and of other GPUs are guesses until a run has been timed.
CPU = Chip(0.05, 0.5, 1)
CUDA = Chip(100, 2)


@dataclass(frozen=True)
class Machine:
    """`memory` in all and `usable` by a run, in bytes; `backend` is metal, cuda or cpu; `known` is whether
    the chip is in the table."""

    name: str
    backend: str
    memory: int
    usable: int
    chip: Chip
    known: bool = True

    def work(self, streamed: bool = False) -> Work:
        """Return how much this chip computes in one dispatch, less where weights are streamed."""
        flops = self.chip.tflops * 1e12 * DISPATCH_SECONDS
        return Work(flops, STREAMED_ROWS if streamed else MLP_ROWS, self.chip.dense_rows)


def this_machine() -> Machine:
    info = mx.device_info()
    name = str(info.get("device_name", "unknown"))
    if mx.default_device() == mx.gpu and mx.metal.is_available():
        return mac(name, int(info["memory_size"]), int(info["max_recommended_working_set_size"]))
    if mx.default_device() == mx.gpu:
        memory = int(info["total_memory"])
        return Machine(name, "cuda", memory, int(0.9 * memory), CUDA, known=False)
    memory = _memory()
    return Machine(name, "cpu", memory, int(0.9 * memory), CPU, known=False)


def mac(name: str, memory: int, usable: int) -> Machine:
    """Return the Mac with a chip of this name; one that is not in the table counts as the next older one."""
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
    """Return the bytes of RAM, or of what the container allows."""
    amounts = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            amounts.append(int(Path(file).read_text()))
        except (OSError, ValueError):
            continue
    return min(amounts)
