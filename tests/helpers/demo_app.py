"""The real page in a process of its own, as `happyhorse demo` starts it; and what a test wants otherwise.

python -m helpers.demo_app [--usable BYTES] [--slow SECONDS] -- OPTIONS OF happyhorse demo
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import helpers.openblas  # noqa: F401
import mlx.core as mx

from mlx_happyhorse import cli
from mlx_happyhorse.inputs import request
from mlx_happyhorse.models import transformer
from mlx_happyhorse.pipeline import stages
from mlx_happyhorse.storage import hub


def smaller(model: Path) -> Path:
    """The same model, which makes small clips where nothing else is asked for."""
    copy = Path(tempfile.mkdtemp()) / model.name
    shutil.copytree(model, copy)
    config = json.loads((copy / "config.json").read_text())
    config["sampling"] |= {"width": 64, "height": 32}
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--usable", type=int, help="memory that the machine seems to have")
    parser.add_argument("--slow", type=float, default=0, help="seconds that every layer takes longer")
    parser.add_argument("rest", nargs="*")
    options = parser.parse_args()
    hub.EMBEDDED["tiny"] = smaller(hub.EMBEDDED["tiny"])
    request.UPSCALED["540p"] = (48, 96)  # the toy model's own idea of large
    if options.usable:
        machine = replace(stages.this_machine(), usable=options.usable)
        stages.this_machine = lambda: machine
    if options.slow:
        layer = transformer.Layer.__call__

        def slowly(self: transformer.Layer, x: mx.array, now: transformer.Pass) -> None:
            time.sleep(options.slow)
            layer(self, x, now)

        patch.object(transformer.Layer, "__call__", slowly).start()
    return cli.main(["demo", "--no-browser", *options.rest])


if __name__ == "__main__":
    sys.exit(main())
