"""Downloads a 4-bit model for text-to-video: bytes fetched beside bytes used, and the most disk it took.

The Hub is a server on this machine, with the published repos, their files and names, at toy size.

python benchmarks/fetched.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import published
from helpers.hub_server import HubServer

PARTS = ("transformer", "text_encoder", "video_decoder", "audio_vae")


def size(folder: Path) -> int:
    """Bytes that a folder's files take on the disk."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # it was renamed at this moment
                total += (Path(place) / name).stat().st_blocks * 512
    return total


def main() -> None:
    with tempfile.TemporaryDirectory() as name, HubServer(Path(name) / "hub") as server:
        work = Path(name)
        published.write(work / "hub")
        server.bytes_per_second = 10e6
        places = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "0"}
        places |= {"HAPPYHORSE_HOME": str(work / "models"), "TMPDIR": str(work / "home")}
        (work / "home").mkdir()
        command = [sys.executable, "-m", "mlx_happyhorse", "download", "magihuman-distill", "--q-bits", "4"]
        peak = 0
        with subprocess.Popen(
            [*command, "--components", *PARTS], env=os.environ | places, stderr=subprocess.DEVNULL
        ) as process:
            while process.poll() is None:
                peak = max(peak, size(work / "models") + size(work / "home"))
                time.sleep(0.01)
        used = sum(published.used(work / "hub")[part] for part in PARTS)
        shards = (work / "hub" / published.MAGIHUMAN / "distill").glob("*.safetensors")
        result, shard = size(work / "models"), max(file.stat().st_size for file in shards)
        print(f"fetched {server.sent():,} bytes of {used:,} used: {100 * (server.sent() / used - 1):+.2f} %")
        print(f"largest use of the disk beyond the result: {max(peak - result, 0) / shard:.3f} source shards")


if __name__ == "__main__":
    main()
