"""The command line, called as a person would, and what it left."""

import os
import re

import av
import numpy as np

from mlx_happyhorse import cli
from mlx_happyhorse.outputs import metadata

SHORT = ["--seconds", "0.2", "--steps", "1", "--width", "64", "--height", "64", "--seed", "3"]


def run(*arguments):
    return cli.main(list(arguments))


def read_until(process, pattern):
    """What the process shows, up to something that matches."""
    shown = b""
    while not re.search(pattern, shown):
        piece = os.read(process.stderr.fileno(), 4096)
        assert piece, shown
        shown += piece
    return shown


def frames_of(path):
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray() for frame in file.decode(video=0)])


def settings_in(path):
    return metadata.read(path)
