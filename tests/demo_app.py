"""The real page in a process of its own, as `happyhorse demo` starts it; and what a test wants otherwise.

python tests/demo_app.py [--usable BYTES] [--slow SECONDS] -- OPTIONS OF happyhorse demo
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

import openblas  # noqa: F401

from mlx_happyhorse import cli, networks, request
from mlx_happyhorse.models import transformer


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--usable", type=int, help="memory that the machine seems to have")
    parser.add_argument("--slow", type=float, default=0, help="seconds that every layer takes longer")
    parser.add_argument("rest", nargs="*")
    options = parser.parse_args()
    request.UPSCALED["540p"] = (160, 288)  # the toy model's own idea of large
    if options.usable:
        machine = replace(networks.this_machine(), usable=options.usable)
        networks.this_machine = lambda: machine
    if options.slow:
        layer = transformer.Layer.__call__

        def slowly(self: object, *arguments: object) -> None:
            time.sleep(options.slow)
            layer(self, *arguments)

        transformer.Layer.__call__ = slowly
    return cli.main(["demo", "--no-browser", *options.rest])


if __name__ == "__main__":
    sys.exit(main())
