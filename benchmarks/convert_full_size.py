"""Convert synthetic checkpoints of the published size: how much memory, and how long beside a plain copy.

The published names and shapes with random numbers: all 40 layers in bf16 in 7 shards, then the first 20 in
fp32. Each is written, copied shard by shard, converted to 4 bits in a process of its own, and removed.

python benchmarks/convert_full_size.py [FOLDER] [--narrower N] [--only BF16|F32]

Needs about 42 GB of disk in FOLDER (default: a temporary one); --narrower makes every width N times smaller.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from helpers.full_size import as_bytes, evict, fill, normal_noise

from mlx_happyhorse.storage.safetensors import write_header

HEADS, KV, DIM = 40, 8, 128
GELU, SWIGLU, TEXT = 20480, 13652, 3584
SHARDS = 7
BANDS = (10000.0 ** (-np.arange(16) / 16)).astype(np.float32)
CONVERT = """
import json, resource, sys, time
from mlx_happyhorse.convert import Quantization, convert
started = time.monotonic()
convert([sys.argv[1]], sys.argv[2], variant="base", quantization=Quantization(4, 64))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"seconds": time.monotonic() - started, "peak": peak}))
"""


def shapes(layers: int, narrower: int) -> dict[str, tuple[tuple[int, ...], bool]]:
    """By name: the shape, and whether it is a large matrix."""
    heads, kv = HEADS // narrower, max(KV // narrower, 1)
    hidden = heads * DIM
    small: dict[str, tuple[int, ...]] = {"adapter.rope.bands": (16,)}
    for name, width in (("video", 192), ("audio", 64), ("text", TEXT // narrower)):
        small |= {
            f"adapter.{name}_embedder.weight": (hidden, width),
            f"adapter.{name}_embedder.bias": (hidden,),
        }
    for name, width in (("video", 192), ("audio", 64)):
        small |= {f"final_norm_{name}.weight": (hidden,), f"final_linear_{name}.weight": (width, hidden)}
    large: dict[str, tuple[int, ...]] = {}
    for i in range(layers):
        block, n, gelu = f"block.layers.{i}.", 3 if i < 4 or i >= 36 else 1, i < 4
        inner = (GELU if gelu else SWIGLU) // narrower
        small |= {f"{block}{name}.pre_norm.weight": (n * hidden,) for name in ("attention", "mlp")}
        small |= {f"{block}attention.{name}_norm.weight": (n * DIM,) for name in "qk"}
        large |= {
            f"{block}attention.linear_qkv.weight": (n * (hidden + 2 * kv * DIM + heads), hidden),
            f"{block}attention.linear_proj.weight": (n * hidden, hidden),
            f"{block}mlp.up_gate_proj.weight": (n * inner * (1 if gelu else 2), hidden),
            f"{block}mlp.down_proj.weight": (n * hidden, inner),
        }
    return {k: (s, False) for k, s in small.items()} | {k: (s, True) for k, s in large.items()}


def write(folder: Path, layers: int, dtype: str, narrower: int) -> tuple[int, int]:
    """Write a checkpoint; return its parameters and bytes."""
    folder.mkdir()
    tensors = sorted(shapes(layers, narrower).items())
    data = {kind: as_bytes(normal_noise(), kind) for kind in ("BF16", "F32")}
    index: dict[str, str] = {}
    size = 0
    for i in range(SHARDS):
        name = f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors"
        part = tensors[i * len(tensors) // SHARDS : (i + 1) * len(tensors) // SHARDS]
        header, places = write_header((n, dtype if large else "F32", shape) for n, (shape, large) in part)
        with (folder / name).open("wb") as file:
            file.write(header)
            for tensor, place in places.items():
                bands = tensor == "adapter.rope.bands"
                fill(file, place.end - place.begin, BANDS.tobytes() if bands else data[place.dtype])
        index |= dict.fromkeys(places, name)
        size += (folder / name).stat().st_size
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return sum(math.prod(shape) for _, (shape, _) in tensors), size


def copy(folder: Path, target: Path) -> float:
    """Return the seconds that copying takes. No more than one shard is there twice."""
    seconds = 0.0
    for file in sorted(folder.iterdir()):
        evict(file)
        started = time.monotonic()
        shutil.copyfile(file, target)
        with target.open("rb") as copied:
            os.fsync(copied.fileno())
        seconds += time.monotonic() - started
        target.unlink()
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=tempfile.gettempdir())
    parser.add_argument("--narrower", type=int, default=1, metavar="N")
    parser.add_argument("--only", choices=("BF16", "F32"))
    options = parser.parse_args(arguments)
    for layers, dtype in ((40, "BF16"), (20, "F32")):
        if options.only not in (None, dtype):
            continue
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            work = Path(name)
            parameters, size = write(work / "source", layers, dtype, options.narrower)
            print(f"{parameters / 1e9:.2f} B parameters in {layers} layers, {dtype}, {size / 1e9:.1f} GB")
            copied = copy(work / "source", work / "copy")
            for file in (work / "source").iterdir():
                evict(file)
            command = [sys.executable, "-c", CONVERT, str(work / "source"), str(work / "model")]
            done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            result = sum(file.stat().st_size for file in (work / "model").rglob("*.safetensors"))
            print(
                f"  to 4 bits, {result / 1e9:.2f} GB: peak {done['peak'] / 2**30:.2f} GiB, "
                f"{done['seconds']:.0f} s, {done['seconds'] / copied:.2f} × a copy ({copied:.0f} s)"
            )


if __name__ == "__main__":
    main()
