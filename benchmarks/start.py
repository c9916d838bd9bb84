"""Prints what importing costs beyond MLX itself, and a cold start to a finished clip of one second.

python benchmarks/start.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

RUNS = 5
IMPORTS = {
    "import mlx_happyhorse": "import mlx_happyhorse",
    "… with HappyHorse": "from mlx_happyhorse import HappyHorse",
    "happyhorse --help": "from mlx_happyhorse.cli import _parser; _parser().format_help()",
}


def added_seconds(statement: str) -> float:
    code = (
        f"import time, mlx.core; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True) for _ in range(RUNS)
    ]
    return max(float(run.stdout) for run in runs)


def clip_seconds() -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "mlx_happyhorse", "generate", "A red ball bounces on a blue floor."]
        options = ["--model", "tiny", "--seconds", "1", "-o", f"{folder}/ball.mp4"]
        subprocess.run([*command, *options], capture_output=True, check=True)
        return time.perf_counter() - start


if __name__ == "__main__":
    for label, statement in IMPORTS.items():
        print(f"{label}: +{added_seconds(statement):.3f} s over import mlx.core, the slowest of {RUNS}")
    print(f"cold start to finished clip: {clip_seconds():.1f} s")
