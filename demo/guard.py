"""Requests that are turned away before anything reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGEST_UPLOAD = 200_000_000  # bytes: a picture or a minute of sound has a few
LARGEST_BODY = 8_000_000  # of any other request
UPLOADED = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".ppm"}
UPLOADED |= {".wav", ".flac", ".ogg", ".mp3", ".m4a", ".aac", ".mp4", ".mov", ".webm", ".mkv", ".aiff"}
SERVED = (".mp4",)  # of the folder of clips
NAMED = re.compile(rb'filename="([^"]*)"')
FILE = re.compile(r"/file=(.*)$")


class Guard:
    """ASGI middleware: only known hosts (against DNS rebinding), no foreign pages' requests, no large bodies,
    and of the folder of clips only the clips."""

    def __init__(self, app: Any, folder: Path, own: Path, hosts: Sequence[str] | None):
        """`own` is Gradio's folder of uploads; `hosts` are those that the page may be asked for by, None for
        any, where there is a password."""
        self.app, self.folder, self.own, self.hosts = app, folder, own, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif (refusal := self._refusal(scope)) is not None:
            await _answer(send, *refusal)
        elif scope["path"].endswith("/upload"):
            await self._upload(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _upload(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass an upload on, as long as its files are pictures, recordings and clips."""
        refused = False

        async def checked() -> Any:
            nonlocal refused
            message = await receive()
            refused = refused or _foreign(message)
            return {"type": "http.disconnect"} if refused else message

        async def answered(message: Any) -> None:
            if not refused:
                await send(message)

        try:
            await self.app(scope, checked, answered)
        except Exception:
            if not refused:
                raise
        if refused:
            await _answer(send, 415, "only pictures, recordings and clips can be uploaded.")

    def _refusal(self, scope: Any) -> tuple[int, str] | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path = unquote(scope["path"])
        host = _host(headers.get("host", ""))
        if self.hosts is not None and host not in self.hosts:
            return 421, "this page is served to this computer only."
        origin = headers.get("origin")
        if origin is not None and _host(urlsplit(origin).netloc) != host:
            return 403, "this request comes from another page."
        limit = LARGEST_UPLOAD if path.endswith("/upload") else LARGEST_BODY
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > limit:
            return 413, f"more than {limit // 1_000_000} MB."
        if path.endswith("/upload") and "chunked" in headers.get("transfer-encoding", ""):
            return 411, "an upload must say how large it is."
        if "/proxy=" in path:
            return 403, "this server asks no other for anything."
        found = FILE.search(path)
        if found and not self._is_served(found[1]):
            return 403, "this file is not served."
        return None

    def _is_served(self, name: str) -> bool:
        """Of Gradio's own folder, the uploads; of the clips' folder, the clips."""
        path = Path(name)
        if "://" in name or ".." in path.parts or "\0" in name:
            return False
        if path.is_relative_to(self.own):
            return True
        return (
            path.parent == self.folder
            and path.suffix in SERVED
            and not path.name.startswith(".")
            and (not path.is_symlink())
        )


def _foreign(message: Any) -> bool:
    """Whether a part of an upload begins a file of another kind."""
    names = NAMED.findall(message.get("body", b""))
    return any(Path(name.decode("latin-1")).suffix.lower() not in UPLOADED for name in names)


def _host(netloc: str) -> str:
    name = urlsplit(f"//{netloc}").hostname
    return name or ""


async def _answer(send: Any, status: int, why: str) -> None:
    body = f"{why}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]}
    )
    await send({"type": "http.response.body", "body": body})
