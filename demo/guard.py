"""Refuse dangerous requests before Gradio reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.requests import ClientDisconnect

MAX_UPLOAD_BYTES = 200_000_000  # an image or a minute of sound has a few million
MAX_BODY_BYTES = 8_000_000  # of any other request
UPLOAD_TYPES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".ppm"}
UPLOAD_TYPES |= {".wav", ".flac", ".ogg", ".mp3", ".m4a", ".aac", ".mp4", ".mov", ".webm", ".mkv", ".aiff"}
SERVED_TYPES = (".mp4",)  # from the folder of clips
FILENAME = re.compile(rb'filename="([^"]*)"')
FILE_ROUTE = re.compile(r"/file=(.*)$")


class Guard:
    """ASGI middleware that checks every HTTP request.

    It accepts known hosts only (against DNS rebinding), refuses requests of other web pages, large bodies
    and uploads that are not media, and serves nothing but clips from the folder of clips."""

    def __init__(self, app: Any, folder: Path, uploads: Path, hosts: Sequence[str] | None):
        """Serve clips from `folder` and Gradio's files from `uploads`. `hosts` are the accepted Host headers;
        None accepts any, for a page with a password."""
        self.app, self.folder, self.uploads, self.hosts = app, folder, uploads, hosts

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
        """Pass an upload on while its files are images, audio or video."""
        refused = False

        async def checked() -> Any:
            nonlocal refused
            message = await receive()
            refused = refused or _has_other_type(message)
            return {"type": "http.disconnect"} if refused else message

        async def answered(message: Any) -> None:
            if not refused:
                await send(message)

        try:
            await self.app(scope, checked, answered)
        except ClientDisconnect:  # what Gradio makes of the broken-off body
            if not refused:
                raise
        if refused:
            await _answer(send, 415, "only image, audio and video files can be uploaded.")

    def _refusal(self, scope: Any) -> tuple[int, str] | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path = unquote(scope["path"])
        host = _host(headers.get("host", ""))
        if self.hosts is not None and host not in self.hosts:
            return 421, "this page is available on this computer only."
        origin = headers.get("origin")
        if origin is not None and _host(urlsplit(origin).netloc) != host:
            return 403, "this request comes from another web page."
        limit = MAX_UPLOAD_BYTES if path.endswith("/upload") else MAX_BODY_BYTES
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > limit:
            return 413, f"the request is larger than {limit // 1_000_000} MB."
        if path.endswith("/upload") and "chunked" in headers.get("transfer-encoding", ""):
            return 411, "an upload needs a Content-Length header."
        if "/proxy=" in path:
            return 403, "this server is not a proxy."
        found = FILE_ROUTE.search(path)
        if found and not self._is_served(found[1]):
            return 403, "this file is not served."
        return None

    def _is_served(self, name: str) -> bool:
        """Whether a path is one of Gradio's uploads or a clip in the folder of clips."""
        path = Path(name)
        if "://" in name or ".." in path.parts or "\0" in name:
            return False
        if path.is_relative_to(self.uploads):
            return True
        return (
            path.parent == self.folder
            and path.suffix in SERVED_TYPES
            and not path.name.startswith(".")
            and not path.is_symlink()
        )


def _has_other_type(message: Any) -> bool:
    """Whether a part of an upload starts a file that is not image, audio or video."""
    names = FILENAME.findall(message.get("body", b""))
    return any(Path(name.decode("latin-1")).suffix.lower() not in UPLOAD_TYPES for name in names)


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
