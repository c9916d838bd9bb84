"""A page for tests: started on a free port, asked until it answers, ended with the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parents[1]


class Server:
    def __init__(self, folder: Path, *options: str, slow: float = 0, usable: int = 0, **environment: str):
        self.folder, self.clips = folder, folder / "clips"
        self.options, self.slow, self.usable, self.environment = options, slow, usable, environment
        self.port = free_port()
        self.log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = ["--slow", str(self.slow), *(["--usable", str(self.usable)] if self.usable else []), "--"]
        words += ["--port", str(self.port), "--output-dir", str(self.clips), "--verbose", *self.options]
        paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        places = {"HAPPYHORSE_HOME": str(self.folder / "home"), "PYTHONPATH": paths}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "helpers.demo_app", *words],
                stdout=log,
                stderr=log,
                env=os.environ | places | self.environment,
            )
        self._wait()

    def _wait(self) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(400):
            assert self.process is not None and self.process.poll() is None, self.log.read_text()
            try:
                opener.open(f"{self.address}/config", timeout=2).read()
                return
            except OSError as error:
                if getattr(error, "code", None) == 401:  # it asks for a password
                    return
                time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        assert server.process is not None
        if server.process.poll() is None:
            server.end(signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
