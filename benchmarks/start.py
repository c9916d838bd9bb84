"""Print what importing costs beyond MLX itself, and the time of a cold start to a finished clip.

python benchmarks/start.py [--runs 5] [--seconds 1]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

IMPORTS = {
    "import mlx_happyhorse": "import mlx_happyhorse",
    "… with HappyHorse": "from mlx_happyhorse import HappyHorse",
    "happyhorse --help": "from mlx_happyhorse import cli; suppressed(lambda: cli.main(['--help']))",
}
MEASURE = """
import contextlib, io, time, mlx.core
def suppressed(command):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        command()
start = time.perf_counter()
{statement}
print(time.perf_counter() - start)
"""


def added_seconds(statement: str, runs: int) -> float:
    command = [sys.executable, "-c", MEASURE.format(statement=statement)]
    done = [subprocess.run(command, capture_output=True, check=True) for _ in range(runs)]
    return max(float(run.stdout) for run in done)


def clip_seconds(seconds: float) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "mlx_happyhorse", "generate", "A red ball bounces on a blue floor."]
        options = ["--model", "tiny", "--seconds", str(seconds), "-o", f"{folder}/ball.mp4"]
        subprocess.run([*command, *options], capture_output=True, check=True)
        return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1)
    options = parser.parse_args(arguments)
    runs = options.runs
    for label, statement in IMPORTS.items():
        print(f"{label}: +{added_seconds(statement, runs):.3f} s over import mlx.core, the slowest of {runs}")
    print(f"cold start to finished clip: {clip_seconds(options.seconds):.1f} s")


if __name__ == "__main__":
    main()
