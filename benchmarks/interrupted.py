"""Kill a conversion and a download at random moments, and see what the next run makes of what is left.

Each is killed 30 times (SIGKILL): alone, and again and again until it gets through. Before every next run the
target must not be there, or be whole; what comes out must be, byte by byte, what an undisturbed run makes.
The sources are the published repos at toy size, the Hub a server on this machine.

python benchmarks/interrupted.py [KILLS]
"""

from __future__ import annotations

import argparse
import filecmp
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import published
from helpers.hub_server import HubServer

PROGRAM = [sys.executable, "-m", "mlx_happyhorse"]
PARTS = ("transformer", "text_encoder", "video_decoder", "audio_vae")


class Task:
    """A command that makes `target`, with or without being killed."""

    def __init__(self, name: str, arguments: list[str], target: Path, environment: dict[str, str]):
        self.name, self.command, self.target = name, [*PROGRAM, *arguments], target
        self.environment = os.environ | environment

    def run(self, seconds: float | None = None) -> bool:
        """Run the command, killed after so many seconds; return whether it got through."""
        with subprocess.Popen(self.command, env=self.environment, stderr=subprocess.PIPE) as process:
            try:
                _, said = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                return False
        if process.returncode:
            raise SystemExit(f"{self.name} failed: {said.decode()}")
        return True

    def forget(self) -> None:
        for folder in self.target.parent.glob("*"):
            shutil.rmtree(folder)


def same(folder: Path, other: Path) -> bool:
    files = [{str(f.relative_to(top)) for f in top.rglob("*") if f.is_file()} for top in (folder, other)]
    return files[0] == files[1] and not filecmp.cmpfiles(folder, other, files[0], shallow=False)[1]


def is_absent_or_whole(task: Task, undisturbed: Path) -> bool:
    return not task.target.exists() or same(task.target, undisturbed)


def measure(task: Task, kills: int, undisturbed: Path) -> None:
    started = time.monotonic()
    task.run()
    duration = time.monotonic() - started
    shutil.copytree(task.target, undisturbed)
    draw = random.Random(0)
    alone: list[bool] = []
    while len(alone) < kills:
        killed, fine = _killed_once(task, draw.uniform(0, duration), undisturbed)
        if killed:
            alone.append(fine)
    print(
        f"{task.name} ({duration:.1f} s): killed {kills} times, "
        f"{sum(alone)} times finished by the next run and byte-identical"
    )
    if not kills:
        return
    task.forget()
    count, fine = 0, True
    while not task.run(draw.uniform(0.4, 0.7) * duration):
        count += 1
        fine = fine and is_absent_or_whole(task, undisturbed)
    fine = fine and same(task.target, undisturbed)
    print(f"  killed {count} times in a row until it was through: {'identical' if fine else 'DIFFERENT'}")


def _killed_once(task: Task, moment: float, undisturbed: Path) -> tuple[bool, bool]:
    task.forget()
    through = task.run(moment)
    fine = is_absent_or_whole(task, undisturbed)
    if not through and not task.target.exists():
        task.run()
    left = [folder.name for folder in task.target.parent.iterdir() if folder != task.target]
    return not through, fine and same(task.target, undisturbed) and not left


def conversion(hub: Path, work: Path) -> Task:
    sources = [hub / repo for repo in (published.T5GEMMA, published.STABLE_AUDIO)]
    sources += [hub / published.MAGIHUMAN / part for part in ("distill", "turbo_vae")]
    target = work / "converted" / "model"
    arguments = ["convert", "-q", "--mlx-path", str(target), "--hf-path", *map(str, sources)]
    return Task("conversion", arguments, target, {})


def download(server: HubServer, work: Path) -> Task:
    places = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "0"}
    target = work / "downloaded" / "model"
    arguments = ["download", "magihuman-distill", "--mlx-path", str(target), "--components", *PARTS]
    return Task("download", arguments, target, places)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kills", nargs="?", type=int, default=30)
    kills = parser.parse_args(arguments).kills
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        published.write(work / "hub")
        measure(conversion(work / "hub", work), kills, work / "converted undisturbed")
        with HubServer(work / "hub") as server:
            server.bytes_per_second = 8e6
            measure(download(server, work), kills, work / "downloaded undisturbed")


if __name__ == "__main__":
    main()
