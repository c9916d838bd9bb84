"""The command line, called as a person would, and what it left."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import av
import numpy as np

from mlx_happyhorse import cli
from mlx_happyhorse.outputs import metadata

SHORT = ["--seconds", "0.2", "--steps", "1", "--width", "64", "--height", "64", "--seed", "3"]


def run(*arguments: str) -> int:
    return cli.main(list(arguments))


def read_until(process: subprocess.Popen[bytes], pattern: bytes) -> bytes:
    """What the process shows, up to something that matches."""
    assert process.stderr is not None
    shown = b""
    while not re.search(pattern, shown):
        chunk = os.read(process.stderr.fileno(), 4096)
        assert chunk, shown
        shown += chunk
    return shown


def frames_of(path: str | Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray() for frame in file.decode(video=0)])


def settings_in(path: str | Path) -> dict[str, Any]:
    return metadata.read(path)
