"""Let twenty programs use the page's server at once, some leaving, some cancelling.

python benchmarks/callers.py [--rounds 5] [--callers 20]

Every job must end as it should, and memory stay flat.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from gradio_client import Client
from helpers.demo_server import Server, serving

SMALL: dict[str, Any] = {"seconds": 0.2, "width": 64, "height": 32, "steps": 1}
LEAVING = (
    "import os, time; from gradio_client import Client; "
    "c = Client({address!r}, verbose=False); c.submit('left', **{settings!r}, api_name='/generate'); "
    "time.sleep(0.5); os._exit(0)"
)


def memory(server: Server) -> float:
    """MB of the server's process."""
    assert server.process is not None
    command = ["ps", "-o", "rss=", "-p", str(server.process.pid)]
    return int(subprocess.run(command, capture_output=True, check=True).stdout) / 1024


def call(server: Server, number: int) -> None:
    """Stay for the clip, leave in the middle, or cancel."""
    if number % 5 == 4:
        script = LEAVING.format(address=server.address, settings=SMALL)
        subprocess.run([sys.executable, "-c", script], check=True)
        return
    client = Client(server.address, verbose=False, download_files=str(server.folder))
    job = client.submit(f"caller {number}", **SMALL, api_name="/generate")
    if number % 5 == 3:
        time.sleep(0.3)
        job.cancel()
    else:
        job.result()


def measure(server: Server, rounds: int, callers: int) -> None:
    print(f"before     {memory(server):6.0f} MB")
    jobs = Client(server.address, verbose=False)
    for number in range(rounds):
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(lambda caller: call(server, caller), range(callers)))
        while any(job["state"] in ("queued", "running") for job in jobs.predict(api_name="/jobs")):
            time.sleep(0.2)
        states = Counter(job["state"] for job in jobs.predict(api_name="/jobs"))
        print(f"{callers * (number + 1):>3} callers {memory(server):6.0f} MB, {dict(states)}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, default=20)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, serving(Server(Path(folder))) as server:
        measure(server, options.rounds, options.callers)


if __name__ == "__main__":
    main()
