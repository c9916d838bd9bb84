"""Start the page's server, protect it, and shut it down."""

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

from mlx_happyhorse.errors import HappyHorseError, RequestError, argument
from mlx_happyhorse.planning.hardware import GB, this_machine

from .api import add_endpoints
from .downloads import Downloads
from .guard import MAX_UPLOAD_BYTES, Guard
from .jobs.queue import Jobs
from .page.layout import Page, header
from .page.models import TINY, Model, full_models
from .page.styles import CSS, HEAD, theme
from .page.wiring import connect

PORTS = range(7860, 7960)  # the first free one is used; 7860 is Gradio's own default
SESSIONS = 200  # tabs and callers that Gradio remembers: each holds a copy of the state that it changed
LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Options:
    """Options of the server. `auth` is "user:password"; without a `port` the first free one is used."""

    model: str | None = None
    output_dir: Path = Path("~/Movies/HappyHorse")
    port: int | None = None
    listen: bool = False
    share: bool = False
    auth: str | None = None
    mcp: bool = False
    browser: bool = True
    verbose: bool = False


def serve(options: Options) -> None:
    """Serve the page until it is interrupted. Raises RequestError for invalid options."""
    login = _login(options)
    port = _port(options)
    models = full_models()
    model = Model.of(options.model or (models[0] if models else TINY))
    jobs = Jobs(options.output_dir.expanduser().resolve(), options.verbose)
    downloads = Downloads(options.verbose)
    uploads = Path(tempfile.mkdtemp(prefix="happyhorse-")).resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # or the uploads of all Gradio programs would be served
    try:
        blocks = build(jobs, downloads, model, options.listen or options.share)
        address = _launch(blocks, jobs, options, port, login)
        _announce(address, port, options)
        _wait()
    finally:
        downloads.close()
        jobs.close()
        gr.close_all(verbose=False)
        shutil.rmtree(uploads, ignore_errors=True)


def build(jobs: Jobs, downloads: Downloads, model: Model, shared: bool) -> gr.Blocks:
    """Return the page with its events and endpoints."""
    machine = this_machine()
    memory = f"{machine.memory / GB:.0f} GB"
    with gr.Blocks(title="HappyHorse MLX", analytics_enabled=False) as blocks:
        add_endpoints(jobs, model.name)  # first, as Gradio names endpoints in order of creation
        page = Page(model, header(machine.name, memory, model.name, shared))
        connect(blocks, page, jobs, downloads)
    return blocks


def _launch(blocks: gr.Blocks, jobs: Jobs, options: Options, port: int, login: tuple[str, str] | None) -> str:
    for name in ("NO_PROXY", "no_proxy"):  # Gradio requests its own page, which no proxy can reach
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), *LOCAL]))
    gr.set_static_paths([jobs.folder])
    hosts = None if options.listen or options.share else LOCAL
    uploads = Path(get_upload_folder()).resolve()
    guard = {"folder": jobs.folder, "uploads": uploads, "hosts": hosts}
    _, local, public = blocks.launch(
        server_name="0.0.0.0" if options.listen else "127.0.0.1",
        server_port=port,
        share=options.share,
        auth=login,
        prevent_thread_lock=True,
        quiet=True,
        inbrowser=False,
        max_file_size=MAX_UPLOAD_BYTES,
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
        raise RequestError(f"{argument('auth')} must be USER:PASSWORD.")
    if (options.listen or options.share) and options.auth is None:
        raise RequestError(
            f"{argument('listen')} and {argument('share')} let others use this machine and see its clips. "
            f"To require a password, set {argument('auth')} to USER:PASSWORD."
        )
    return (user, password) if options.auth is not None else None


def _port(options: Options) -> int:
    candidates: Sequence[int] = PORTS if options.port is None else [options.port]
    for port in candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0" if options.listen else "127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return port
    if options.port is not None:
        raise RequestError(
            f"port {options.port} is in use or not allowed. Choose another, or do not set {argument('port')}."
        )
    raise HappyHorseError(f"no port from {PORTS[0]} to {PORTS[-1]} is free. Set {argument('port')}.")


def _announce(address: str, port: int, options: Options) -> None:
    print(f"HappyHorse is running at {address}", flush=True)
    if options.mcp:
        print(f"MCP clients connect to {address.rstrip('/')}/gradio_api/mcp/", flush=True)
    if options.listen:
        print(f"Others on your network can open http://{socket.gethostname()}:{port}", flush=True)
    if options.browser:
        webbrowser.open(address)


def _wait() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        while not ended.wait(0.5):
            pass
    except KeyboardInterrupt:
        print("Stopped.", flush=True)
    finally:
        signal.signal(signal.SIGTERM, before)
