"""Run the full-size transformer, resident and streamed from disk: memory, time, and whether they agree.

python benchmarks/streaming.py [FOLDER] [--quick]

Needs up to 32 GB of disk in FOLDER (default: a temporary one); --quick runs four narrow layers instead.
Random weights in our format, 15.3 B parameters at 4 bits, then bf16: 20 layers both ways, and all 40
streamed, as these do not fit a small machine. A short sequence, two passes, each way in a process of its own
that starts with nothing of the file in memory. Peaks are MLX's, with activations, and the process's own.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import mlx.core as mx
import numpy as np
from helpers.full_size import as_bytes, evict, fill, normal_noise

from mlx_happyhorse.models.transformer import TransformerConfig
from mlx_happyhorse.storage.dtypes import is_cast
from mlx_happyhorse.storage.safetensors import write_header
from mlx_happyhorse.storage.weights import INDEX, build, parameters

QUANTIZATION = {"group_size": 64, "bits": 4, "mode": "affine"}
TESTS = str(Path(__file__).parents[1] / "tests")
PASSES = 2
WAYS = ("resident", "streamed")
NARROW = {"hidden_size": 256, "num_heads": 2, "num_kv_heads": 1, "gelu_size": 512, "swiglu_size": 512}
RUN = """
import hashlib, json, resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
import helpers.openblas
import mlx.core as mx
import numpy as np
from mlx_happyhorse.diffusion.sampling import Velocity
from mlx_happyhorse.models.matmul import Work
from mlx_happyhorse.storage import weights

model = weights.load(Path(sys.argv[1]), work=Work(dense_rows=2), streamed=sys.argv[2] == "streamed")
keys = mx.random.split(mx.random.key(0), 3)
shapes = (1, 4, 4, 48), (2, 64), (3, model.config.text_channels)
video, audio, text = (mx.random.normal(s, key=k) for s, k in zip(shapes, keys))
velocity, seconds = Velocity(model), []
for _ in range(int(sys.argv[3])):
    started = time.monotonic()
    out = velocity(video, audio, text)
    mx.eval(out)
    seconds.append(time.monotonic() - started)
assert all(mx.isfinite(o).all().item() for o in out)
digest = hashlib.sha256(b"".join(np.array(o).tobytes() for o in out)).hexdigest()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"digest": digest, "seconds": seconds, "mlx": mx.get_peak_memory(), "process": peak}))
"""


def write(folder: Path, layers: int, quantized: bool, **narrow: Any) -> tuple[int, int]:
    """Write a transformer's folder, `narrow` in its dimensions; return its parameters and bytes."""
    ends = 4 * layers // 40
    modality = (*range(ends), *range(layers - ends, layers))
    dimensions = TransformerConfig(
        num_layers=layers, modality_layers=modality, gelu_layers=tuple(range(ends)), **narrow
    )
    config: dict[str, Any] = {"type": "transformer", "dtype": "bfloat16"} | dimensions.to_dict()
    count = sum(tensor.size for tensor in parameters(build(config)).values())
    if quantized:
        left = {f"{name}_embedder": False for name in ("video", "audio", "text")}
        left |= {f"{name}_head": False for name in ("video", "audio")}
        gates = [name.removesuffix(".weight") for name in parameters(build(config)) if ".gate." in name]
        config["quantization"] = QUANTIZATION | left | dict.fromkeys(gates, False)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = parameters(build(config))
    size = 0
    index: dict[str, str] = {}
    for i in range(layers + 1):
        mine = [n for n in tensors if (n.startswith(f"layers.{i}.") if i < layers else "layers" not in n)]
        name = f"model-{i:05d}.safetensors"
        index |= dict.fromkeys(mine, name)
        size += _write_shard(folder / name, {n: tensors[n] for n in mine})
    (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    return count, size


def _write_shard(path: Path, tensors: dict[str, mx.array]) -> int:
    kinds = {n: _kind(n, t) for n, t in tensors.items()}
    header, places = write_header((n, kinds[n], tuple(t.shape)) for n, t in tensors.items())
    noise = normal_noise()
    with path.open("wb") as file:
        file.write(header)
        for name, place in places.items():
            fill(file, place.end - place.begin, _data(name, kinds[name], noise))
    return path.stat().st_size


def _kind(name: str, tensor: mx.array) -> str:
    if tensor.dtype == mx.uint32:
        return "U32"
    return "BF16" if is_cast("transformer", name) else "F32"


def _data(name: str, kind: str, noise: np.ndarray) -> bytes:
    if kind == "U32":
        return noise.tobytes()  # any bits will do
    values = noise
    if name.endswith(("scales", "biases")):
        values = np.full_like(noise, 0.005 if name.endswith("scales") else -0.0375)
    return as_bytes(values, kind)


def run(folder: Path, way: str, passes: int = PASSES) -> dict[str, Any]:
    for file in folder.iterdir():
        evict(file)
    command = [
        sys.executable,
        "-c",
        RUN,
        str(folder),
        way,
        str(passes),
        TESTS,
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def show(way: str, result: dict[str, Any]) -> None:
    seconds = ", ".join(f"{s:.1f}" for s in result["seconds"])
    peaks = f"{result['mlx'] / 2**30:.2f} GiB of arrays, {result['process'] / 2**30:.2f} GiB in all"
    print(f"  {way:9} peak {peaks}; passes {seconds} s", flush=True)


def measure(folder: Path, layers: int, quantized: bool, ways: Sequence[str], **narrow: Any) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        count, size = write(Path(name) / "transformer", layers, quantized, **narrow)
        bits = "4 bits" if quantized else "bf16"
        print(f"{layers} layers, {count / 1e9:.2f} B parameters, {bits}, {size / 1e9:.1f} GB", flush=True)
        found = {}
        for way in ways:
            found[way] = run(Path(name) / "transformer", way)
            show(way, found[way])
    if len(ways) == 2:
        same = found["resident"]["digest"] == found["streamed"]["digest"]
        times = [math.fsum(found[way]["seconds"]) for way in ("streamed", "resident")]
        print(f"  outputs {'byte-identical' if same else 'DIFFER'}, {times[0] / times[1]:.2f} × as long")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=tempfile.gettempdir())
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    if options.quick:
        measure(options.folder, 4, True, WAYS, **NARROW)
        return
    measure(options.folder, 40, True, WAYS)
    measure(options.folder, 20, False, WAYS)
    measure(options.folder, 40, False, ("streamed",))


if __name__ == "__main__":
    main()
