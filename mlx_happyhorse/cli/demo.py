from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from ..errors import RequestError


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", "-m", help="initial model: name or folder (default: a downloaded model, or tiny)"
    )
    parser.add_argument("--port", type=int, help="port (default: 7860, or the next free one)")
    parser.add_argument(
        "--output-dir",
        default="~/Movies/HappyHorse",
        metavar="FOLDER",
        help="folder for clips (default: %(default)s)",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the browser")
    parser.add_argument("--listen", action="store_true", help="serve the local network too; requires --auth")
    parser.add_argument(
        "--share",
        action="store_true",
        help="create a public address through Gradio's servers; requires --auth",
    )
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="require this user name and password")
    parser.add_argument("--mcp", action="store_true", help="offer the endpoints to MCP clients")


def run(options: argparse.Namespace) -> None:
    """generate clips on a page in the browser"""
    if find_spec("gradio") is None:
        raise RequestError('the page needs Gradio. Run: pip install "mlx-happyhorse[demo]"')
    from ..demo.server import Options, serve

    serve(
        Options(
            model=options.model,
            output_dir=Path(options.output_dir),
            port=options.port,
            listen=options.listen,
            share=options.share,
            auth=options.auth,
            mcp=options.mcp,
            browser=not options.no_browser,
            verbose=options.verbose,
        )
    )
