"""Converts synthetic checkpoints of the published size: how much memory, and how long beside a plain copy.

The published names and shapes with made-up numbers: all 40 layers in bf16 in 7 shards, then the first 20 in
fp32. Each is written, copied shard by shard, converted to 4 bits in a process of its own, and removed.

python benchmarks/convert_full_size.py [FOLDER]    (needs about 42 GB of disk there; default: a temporary one)
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mlx_happyhorse.storage.safetensors import write_header

HIDDEN, HEADS, KV, DIM = 5120, 40, 8, 128
SHARDS = 7
CONVERT = """
import json, resource, sys, time
from mlx_happyhorse.convert import Quantization, convert
started = time.monotonic()
convert([sys.argv[1]], sys.argv[2], variant="base", quantization=Quantization(4, 64))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"seconds": time.monotonic() - started, "peak": peak}))
"""


def shapes(layers: int) -> dict[str, tuple[tuple[int, ...], bool]]:
    """By name: the shape, and whether it is a large matrix."""
    small: dict[str, tuple[int, ...]] = {"adapter.rope.bands": (16,)}
    for name, width in (("video", 192), ("audio", 64), ("text", 3584)):
        small |= {
            f"adapter.{name}_embedder.weight": (HIDDEN, width),
            f"adapter.{name}_embedder.bias": (HIDDEN,),
        }
    for name, width in (("video", 192), ("audio", 64)):
        small |= {f"final_norm_{name}.weight": (HIDDEN,), f"final_linear_{name}.weight": (width, HIDDEN)}
    large: dict[str, tuple[int, ...]] = {}
    for i in range(layers):
        block, n, gelu = f"block.layers.{i}.", 3 if i < 4 or i >= 36 else 1, i < 4
        inner = 20480 if gelu else 13652
        small |= {f"{block}{name}.pre_norm.weight": (n * HIDDEN,) for name in ("attention", "mlp")}
        small |= {f"{block}attention.{name}_norm.weight": (n * DIM,) for name in "qk"}
        large |= {
            f"{block}attention.linear_qkv.weight": (n * (HIDDEN + 2 * KV * DIM + HEADS), HIDDEN),
            f"{block}attention.linear_proj.weight": (n * HIDDEN, HIDDEN),
            f"{block}mlp.up_gate_proj.weight": (n * inner * (1 if gelu else 2), HIDDEN),
            f"{block}mlp.down_proj.weight": (n * HIDDEN, inner),
        }
    return {k: (s, False) for k, s in small.items()} | {k: (s, True) for k, s in large.items()}


def write(folder: Path, layers: int, dtype: str) -> tuple[int, int]:
    """Writes a checkpoint; returns its parameters and bytes."""
    folder.mkdir()
    tensors = sorted(shapes(layers).items())
    noise = np.random.default_rng(0).normal(scale=0.02, size=1 << 22).astype(np.float32)
    index, size = {}, 0
    for i in range(SHARDS):
        name = f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors"
        part = tensors[i * len(tensors) // SHARDS : (i + 1) * len(tensors) // SHARDS]
        header, places = write_header((n, dtype if large else "F32", shape) for n, (shape, large) in part)
        with (folder / name).open("wb") as file:
            file.write(header)
            for tensor, place in places.items():
                _fill(file.write, tensor, place.end - place.begin, noise, place.dtype)
        index |= dict.fromkeys(places, name)
        size += (folder / name).stat().st_size
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return sum(math.prod(shape) for _, (shape, _) in tensors), size


def _fill(
    write: Callable[[memoryview], object], tensor: str, size: int, noise: np.ndarray, dtype: str
) -> None:
    if tensor == "adapter.rope.bands":
        noise = (10000.0 ** (-np.arange(16) / 16)).astype(np.float32)
    data = memoryview((noise.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else noise).cast("B")
    while size > 0:
        write(data[:size])
        size -= len(data[:size])


def copy(folder: Path, target: Path) -> float:
    """Seconds that copying takes. No more than one shard is there twice."""
    seconds = 0.0
    for file in sorted(folder.iterdir()):
        _forget(file)
        started = time.monotonic()
        shutil.copyfile(file, target)
        with target.open("rb") as copied:
            os.fsync(copied.fileno())
        seconds += time.monotonic() - started
        target.unlink()
    return seconds


def _forget(file: Path) -> None:
    """Lets the system drop what it holds of a file, so that it is read from the disk."""
    if hasattr(os, "posix_fadvise"):
        with file.open("rb") as data:
            os.fsync(data.fileno())
            os.posix_fadvise(data.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(folder: Path) -> None:
    for layers, dtype in ((40, "BF16"), (20, "F32")):
        with tempfile.TemporaryDirectory(dir=folder) as name:
            work = Path(name)
            parameters, size = write(work / "source", layers, dtype)
            print(f"{parameters / 1e9:.2f} B parameters in {layers} layers, {dtype}, {size / 1e9:.1f} GB")
            copied = copy(work / "source", work / "copy")
            for file in (work / "source").iterdir():
                _forget(file)
            command = [sys.executable, "-c", CONVERT, str(work / "source"), str(work / "model")]
            done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            result = sum(file.stat().st_size for file in (work / "model").rglob("*.safetensors"))
            print(
                f"  to 4 bits, {result / 1e9:.2f} GB: peak {done['peak'] / 2**30:.2f} GiB, "
                f"{done['seconds']:.0f} s, {done['seconds'] / copied:.2f} × a copy ({copied:.0f} s)"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir()))
