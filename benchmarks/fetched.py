"""Download a 4-bit model for text-to-video; print bytes fetched beside bytes used, and the most disk it took.

python benchmarks/fetched.py

The Hub is a server on this machine, with the published repos, their files and names, at toy size.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import published
from helpers.hub_server import HubServer

PARTS = ("transformer", "text_encoder", "video_decoder", "audio_vae")
BYTES_PER_SECOND = 10e6


def size(folder: Path) -> int:
    """Bytes that a folder's files take on the disk."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # it was renamed at this moment
                total += (Path(place) / name).stat().st_blocks * 512
    return total


def measure(hub: Path, work: Path, parts: Sequence[str] = PARTS) -> None:
    """Download from a Hub whose repos lie in `hub`, to `work`."""
    with HubServer(hub) as server:
        server.bytes_per_second = BYTES_PER_SECOND
        places = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "0"}
        places |= {"HAPPYHORSE_HOME": str(work / "models"), "TMPDIR": str(work / "home")}
        (work / "home").mkdir()
        command = [sys.executable, "-m", "mlx_happyhorse", "download", "magihuman-distill", "--q-bits", "4"]
        peak = 0
        with subprocess.Popen(
            [*command, "--components", *parts], env=os.environ | places, stderr=subprocess.DEVNULL
        ) as process:
            while process.poll() is None:
                peak = max(peak, size(work / "models") + size(work / "home"))
                time.sleep(0.01)
        if process.returncode:
            raise SystemExit("the download failed")
        used = sum(published.used(hub)[part] for part in parts)
        shards = (hub / published.MAGIHUMAN / "distill").glob("*.safetensors")
        result, shard = size(work / "models"), max(file.stat().st_size for file in shards)
        print(f"fetched {server.sent():,} bytes of {used:,} used: {100 * (server.sent() / used - 1):+.2f} %")
        print(f"largest use of the disk beyond the result: {max(peak - result, 0) / shard:.3f} source shards")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        published.write(Path(name) / "hub")
        measure(Path(name) / "hub", Path(name))


if __name__ == "__main__":
    main()
