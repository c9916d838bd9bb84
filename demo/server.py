"""The server: who may ask for what, and how it starts and ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from gradio.utils import get_upload_folder

from mlx_happyhorse.errors import HappyHorseError, RequestError
from mlx_happyhorse.planning.hardware import GB, this_machine

from .api import add_endpoints
from .downloads import Downloads
from .guard import LARGEST_UPLOAD, Guard
from .jobs.queue import Jobs
from .page.events import QUIET, Events
from .page.layout import Page, header
from .page.models import TINY, Model, real_models
from .page.setup import Setup
from .page.styles import CSS, HEAD, theme

PORT, PORTS = 7860, 100
SESSIONS = 200  # tabs and callers that Gradio remembers: each takes a copy of what it changed
LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Options:
    """How the page is served. `auth` is "user:password"; without a `port` the first free one is taken."""

    model: str | None = None
    folder: Path = Path("~/Movies/HappyHorse")
    port: int | None = None
    listen: bool = False
    share: bool = False
    auth: str | None = None
    mcp: bool = False
    browser: bool = True
    verbose: bool = False


def serve(options: Options) -> None:
    """Serve the page until it is interrupted. Raises RequestError for options that cannot be."""
    login = _login(options)
    port = _port(options)
    models = real_models()
    model = Model.of(options.model or (models[0] if models else TINY))
    jobs, downloads = Jobs(options.folder.expanduser().resolve(), options.verbose), Downloads()
    uploads = Path(tempfile.mkdtemp(prefix="happyhorse-")).resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # or every Gradio program's would be served
    try:
        blocks = build(jobs, downloads, model, options.listen or options.share)
        address = _launch(blocks, jobs, options, port, login)
        _say(address, port, options)
        _wait()
    finally:
        downloads.close()
        jobs.close()
        gr.close_all(verbose=False)
        shutil.rmtree(uploads, ignore_errors=True)


def build(jobs: Jobs, downloads: Downloads, model: Model, shared: bool) -> gr.Blocks:
    """The page with all that it does."""
    machine = this_machine()
    memory = f"{machine.memory / GB:.0f} GB"
    with gr.Blocks(title="HappyHorse MLX", analytics_enabled=False) as blocks:
        add_endpoints(jobs, model.name)  # first: names are given out in this order
        page = Page(model, [model.name], header(machine.name, memory, model.name, shared))
        Events(page, jobs).connect(blocks)
        Setup(page, downloads).connect(blocks, QUIET | {"queue": False})
    return blocks


def _launch(blocks: gr.Blocks, jobs: Jobs, options: Options, port: int, login: tuple[str, str] | None) -> str:
    for name in ("NO_PROXY", "no_proxy"):  # Gradio asks its own server whether it is there
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), *LOCAL]))
    gr.set_static_paths([jobs.folder])
    hosts = None if options.listen or options.share else LOCAL
    guard = {"folder": jobs.folder, "own": Path(get_upload_folder()).resolve(), "hosts": hosts}
    _, local, public = blocks.launch(
        server_name="0.0.0.0" if options.listen else "127.0.0.1",
        server_port=port,
        share=options.share,
        auth=login,
        prevent_thread_lock=True,
        quiet=True,
        inbrowser=False,
        max_file_size=LARGEST_UPLOAD,
        mcp_server=options.mcp,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        state_session_capacity=SESSIONS,
        app_kwargs={"middleware": [_middleware(guard)]},
        theme=theme(),
        css=CSS,
        head=HEAD,
    )
    return public or local


def _middleware(options: dict[str, Any]) -> Any:
    from starlette.middleware import Middleware

    return Middleware(Guard, **options)


def _login(options: Options) -> tuple[str, str] | None:
    user, _, password = (options.auth or "").partition(":")
    if options.auth is not None and not (user and password):
        raise RequestError("--auth is USER:PASSWORD.")
    if (options.listen or options.share) and options.auth is None:
        raise RequestError(
            "--listen and --share open the page to others, who could use this machine and see its clips: "
            "set a password with --auth USER:PASSWORD."
        )
    return (user, password) if options.auth is not None else None


def _port(options: Options) -> int:
    wanted: Sequence[int] = range(PORT, PORT + PORTS) if options.port is None else [options.port]
    for port in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0" if options.listen else "127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return port
    if options.port is not None:
        raise RequestError(
            f"port {options.port} is in use or not allowed: choose another, or leave --port out."
        )
    raise HappyHorseError(f"no port from {PORT} to {PORT + PORTS - 1} is free: choose one with --port.")


def _say(address: str, port: int, options: Options) -> None:
    print(f"HappyHorse is at {address}", flush=True)
    if options.mcp:
        print(f"MCP clients connect to {address.rstrip('/')}/gradio_api/mcp/", flush=True)
    if options.listen:
        print(f"Others in your network reach it at http://{socket.gethostname()}:{port}", flush=True)
    if options.browser:
        webbrowser.open(address)


def _wait() -> None:
    """Until Ctrl-C or a kind kill."""
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        while not ended.wait(0.5):
            pass
    except KeyboardInterrupt:
        print("Stopped.", flush=True)
    finally:
        signal.signal(signal.SIGTERM, before)
