"""A local server that speaks the Hugging Face Hub's protocol, with the faults that networks have."""

import base64
import hashlib
import json
import os
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote

CHUNK = 64 * 1024
LARGEST_IN_GIT = 10 * 1024 * 1024
LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".npz", ".pt", ".pth", ".mp4", ".png")


@dataclass
class Fault:
    """What goes wrong with the next `times` GETs that would send a file whose path contains `match`.

    After so many bytes of the body, `drop` ends the connection, `reset` does so with a TCP reset, and
    `stall` pauses; `slow` pauses after every chunk. `whole` ignores the range, `wrong` sends another one.
    """

    kind: Literal["none", "drop", "reset", "stall", "slow", "status", "whole", "wrong"]
    times: int = 1
    after: int = 0
    seconds: float = 0
    match: str = ""
    status: int = 503
    retry_after: str = "0"


@dataclass
class Request:
    """What was asked: of which bytes, as the start and stop of a slice; and how many of a file were sent."""

    method: str
    path: str
    start: int | None
    stop: int | None
    token: str | None
    sent: int = 0


@dataclass(eq=False)
class Refusal(Exception):
    status: int
    message: str
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Entry:
    """A file of a repo. Its digest is a SHA-256 if it is in LFS, and git's SHA-1 if not."""

    def __init__(self, path: Path, name: str) -> None:
        stat = path.stat()
        self.path, self.name, self.size = path, name, stat.st_size
        self.in_lfs = belongs_in_lfs(name, self.size)
        self.digest = digest_of(path, self.size, stat.st_mtime_ns, self.in_lfs)

    def described(self) -> dict[str, Any]:
        """With the keys of a tree's files and those of `siblings`, which differ."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.digest}\nsize {self.size}\n"
        blob = git_blob(pointer.encode()) if self.in_lfs else self.digest
        lfs = {"oid": self.digest, "sha256": self.digest, "size": self.size, "pointerSize": len(pointer)}
        names = {"type": "file", "path": self.name, "rfilename": self.name, "oid": blob, "blobId": blob}
        return {**names, "size": self.size, **({"lfs": lfs} if self.in_lfs else {})}


def belongs_in_lfs(name: str, size: int) -> bool:
    return size > 0 and (name.endswith(LFS_SUFFIXES) or size > LARGEST_IN_GIT)


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@cache
def digest_of(path: Path, size: int, changed: int, in_lfs: bool) -> str:
    if not in_lfs:
        return git_blob(path.read_bytes())
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_inside(folder: Path, name: str) -> Path:
    if re.search(r"\\|\0|(^|/)\.{0,2}(/|$)", name):
        raise Refusal(404, "Entry not found", "EntryNotFound")
    return folder / name


def slice_of(header: str) -> tuple[int | None, int | None]:
    """The slice that a Range header asks for; everything, unless it asks for exactly one range."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header)
    first, last = match.groups() if match else ("", "")
    if first:
        return int(first), int(last) + 1 if last else None
    return (-int(last), None) if last else (None, None)


class HubServer(ThreadingTCPServer):
    """Serves the repos `root`/OWNER/NAME. `redirect`: files come by way of redirects, as the Hub's do."""

    # No HTTPServer, since that looks up the name of the host: many seconds, on some Macs.
    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, root: Path, *, gated: Iterable[str] = (), tokens: Iterable[str] = (), redirect: bool = False
    ) -> None:
        self.root, self.redirect = root, redirect
        self.gated, self.accepted_tokens = set(gated), set(tokens)
        self.bytes_per_second: float | None = None
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.objects: dict[str, bytes] = {}
        self.connections: set[socket.socket] = set()
        self.lock, self.stopped = threading.Lock(), threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = self.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()
        for connection in self.connections.copy():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def sent(self, prefix: str = "") -> int:
        """How many bytes were sent of the files whose OWNER/NAME/resolve/REVISION/FILE begins so."""
        begins_so = re.compile(f"/(cdn/|api/resolve-cache/)?{re.escape(prefix)}")
        return sum(request.sent for request in list(self.requests) if begins_so.match(request.path))

    def next_fault(self, path: str) -> Fault:
        with self.lock:
            fault = next((f for f in self.faults if f.times > 0 and f.match in path), Fault("none"))
            fault.times -= 1
            return fault

    def entries(self, repo: str) -> list[Entry]:
        folder = self.root / repo
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return [Entry(path, path.relative_to(folder).as_posix()) for path in files]

    def commit(self, repo: str) -> str:
        contents = [(entry.name, entry.digest) for entry in self.entries(repo)]
        return hashlib.sha1(json.dumps([repo, contents]).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: HubServer

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        path, _, query = self.path.partition("?")
        self.query = query.lower()
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        self.asked = Request(self.command, unquote(path), *slice_of(self.headers.get("Range", "")), token)
        self.server.requests.append(self.asked)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if self.command == "POST" and self.server.accepted_tokens:
                self.need_token(path)
            for pattern, action in ROUTES.items():
                if match := re.fullmatch(pattern, f"{self.command.replace('HEAD', 'GET')} {path}"):
                    return action(self, **{name: unquote(text) for name, text in match.groupdict("").items()})
            raise Refusal(404, "Sorry, we can't find the page you are looking for.")
        except Refusal as refusal:
            code = {"X-Error-Code": refusal.code} if refusal.code else {}
            headers = {**refusal.headers, **code, "X-Error-Message": refusal.message}
            self.send_json({"error": refusal.message}, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def start(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_json(self, data: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(data).encode()
        self.start(status, len(content), {"Content-Type": "application/json", **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(content)

    def need_token(self, what: str, code: str | None = None) -> None:
        token = self.asked.token
        if token not in self.server.accepted_tokens:
            raise Refusal(403 if token else 401, f"Access to {what} is restricted", code)

    def need_commit(self, repo: str, revision: str = "", *, of_files: bool = False) -> str:
        """The commit of a repo that exists, and whose files, if they are asked for, are open to the token."""
        if not path_inside(self.server.root, repo).is_dir():
            raise Refusal(404 if self.asked.token else 401, "Repository not found", "RepoNotFound")
        if of_files and repo in self.server.gated:
            self.need_token(f"model {repo}", "GatedRepo")
        commit = self.server.commit(repo)
        if revision not in ("", "main", commit):
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def send_model_info(self, repo: str, revision: str) -> None:
        commit = self.need_commit(repo, revision)
        keys = ("rfilename", "size", "blobId", "lfs") if "blobs=true" in self.query else ("rfilename",)
        files = [entry.described() for entry in self.server.entries(repo)]
        siblings = [{key: file[key] for key in keys if key in file} for file in files]
        about = {"id": repo, "modelId": repo, "author": repo.split("/")[0], "private": False, "tags": []}
        gated = "manual" if repo in self.server.gated else False
        self.send_json({**about, "sha": commit, "gated": gated, "siblings": siblings})

    def send_tree(self, repo: str, revision: str, folder: str) -> None:
        commit = self.need_commit(repo, revision)
        files = [entry.described() for entry in self.server.entries(repo)]
        above = sorted({str(path) for file in files for path in Path(file["path"]).parents[:-1]})
        folders = [{"type": "directory", "path": path, "size": 0, "oid": commit} for path in above]
        below = ".+" if "recursive=true" in self.query else "[^/]+"
        wanted = re.compile(re.escape(f"{folder}/" if folder else "") + below)
        nodes = [node for node in [*folders, *files] if wanted.fullmatch(node["path"])]
        if folder and not nodes:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound", {"X-Repo-Commit": commit})
        self.send_json(nodes)

    def send_resolved(self, via: str, repo: str, revision: str, name: str) -> None:
        commit = {"X-Repo-Commit": self.need_commit(repo, revision, of_files=via != "/cdn")}
        path = path_inside(self.server.root / repo, name)
        if not path.is_file():
            raise Refusal(404, "Entry not found", "EntryNotFound", commit)
        entry = Entry(path, name)
        if via == "/cdn":
            self.send_file(entry, {"ETag": f'"{git_blob(entry.digest.encode())}"'})
        elif self.server.redirect and not via:
            self.send_elsewhere(entry, commit)
        else:
            self.send_file(entry, {**commit, "ETag": f'"{entry.digest}"'})

    def send_elsewhere(self, entry: Entry, commit: dict[str, str]) -> None:
        linked = {"X-Linked-Size": str(entry.size), "X-Linked-Etag": f'"{entry.digest}"'}
        # The CDN is another host: clients neither follow there with a HEAD nor show it the token.
        cdn = f"http://localhost:{self.server.port}/cdn"
        status, place = (302, cdn) if entry.in_lfs else (307, "/api/resolve-cache")
        self.start(status, 0, {**commit, **linked, "Location": place + self.path})

    def send_file(self, entry: Entry, headers: dict[str, str]) -> None:
        if_range = self.headers.get("If-Range", headers["ETag"])
        in_part = self.command == "GET" and self.asked.start is not None and if_range == headers["ETag"]
        whole = range(entry.size)
        body = whole[self.asked.start : self.asked.stop] if in_part else whole
        if in_part and not body:
            raise Refusal(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{entry.size}"})
        fault = self.server.next_fault(self.asked.path) if self.command == "GET" else Fault("none")
        if fault.kind == "status":
            wait = {"Retry-After": fault.retry_after} if fault.status in (429, 503) else {}
            raise Refusal(fault.status, "A fault", headers=wait)
        if fault.kind == "whole":
            in_part, body = False, whole
        elif fault.kind == "wrong":
            by = -1 if body.start else 1
            in_part, body = True, whole[body.start + by : body.stop + by]
        if in_part:
            headers["Content-Range"] = f"bytes {body.start}-{body.stop - 1}/{entry.size}"
        self.start(206 if in_part else 200, len(body), {**headers, "Accept-Ranges": "bytes"})
        if self.command == "GET":
            with entry.path.open("rb") as file:
                file.seek(body.start)
                self.send_body(file, len(body), fault)

    def send_body(self, file: BinaryIO, length: int, fault: Fault) -> None:
        first = min(fault.after, length) if fault.kind in ("drop", "reset", "stall") else length
        pause = fault.seconds if fault.kind == "slow" else 0
        self.pump(file, first, pause)
        if fault.kind == "stall":
            self.server.stopped.wait(fault.seconds)
            self.pump(file, length - first, pause)
        self.close_connection |= fault.kind in ("drop", "reset")
        if fault.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    def pump(self, file: BinaryIO, count: int, pause: float) -> None:
        rate = self.server.bytes_per_second
        largest = min(CHUNK, int(rate / 20) + 1) if rate else CHUNK
        while chunk := file.read(min(count, largest)):
            # Counted first, so that a client that has it all sees it counted.
            self.asked.sent += len(chunk)
            self.wfile.write(chunk)
            count -= len(chunk)
            self.server.stopped.wait(pause + (len(chunk) / rate if rate else 0))

    def create_repo(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or 'user'}/{asked['name']}"
        folder = path_inside(self.server.root, repo)
        status = 409 if folder.exists() else 200
        folder.mkdir(parents=True, exist_ok=True)
        self.send_json({"url": f"{self.server.endpoint}/{repo}", "name": repo}, status)

    def choose_modes(self, repo: str, revision: str) -> None:
        self.need_commit(repo, revision)
        digests = {entry.name: entry.digest for entry in self.server.entries(repo)}
        files = json.loads(self.body)["files"]
        for file in files:
            mode = "lfs" if belongs_in_lfs(file["path"], file["size"]) else "regular"
            file |= {"uploadMode": mode, "shouldIgnore": False, "oid": digests.get(file["path"])}
        self.send_json({"files": files})

    def offer_uploads(self, repo: str) -> None:
        self.need_commit(repo)
        objects = json.loads(self.body)["objects"]
        for missing in (one for one in objects if one["oid"] not in self.server.objects):
            missing["actions"] = {"upload": {"href": f"{self.server.endpoint}/lfs/{missing['oid']}"}}
        self.send_json({"transfer": "basic", "objects": objects})

    def take_object(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "This content has another name")
        self.server.objects[oid] = self.body
        self.start(200, 0, {})

    def make_commit(self, repo: str, revision: str) -> None:
        self.need_commit(repo, revision)
        objects = self.server.objects
        for line in self.body.splitlines()[1:]:
            value = json.loads(line)["value"]
            content = base64.b64decode(value["content"]) if "content" in value else objects[value["oid"]]
            path = path_inside(self.server.root / repo, value["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        commit = self.server.commit(repo)
        self.send_json({"commitOid": commit, "commitUrl": f"{self.server.endpoint}/{repo}/commit/{commit}"})


REPO, REVISION = "(?P<repo>[^/]+/[^/]+)", "(?P<revision>[^/]+)"
ROUTES: dict[str, Callable[..., None]] = {
    f"GET /api/models/{REPO}(/revision/{REVISION})?": _Handler.send_model_info,
    f"GET /api/models/{REPO}/tree/{REVISION}(/(?P<folder>.+))?": _Handler.send_tree,
    f"GET (?P<via>/cdn|/api/resolve-cache)?/{REPO}/resolve/{REVISION}/(?P<name>.+)": _Handler.send_resolved,
    "POST /api/repos/create": _Handler.create_repo,
    "POST /api/validate-yaml": lambda handler: handler.send_json({}),
    f"POST /api/models/{REPO}/preupload/{REVISION}": _Handler.choose_modes,
    rf"POST /{REPO}\.git/info/lfs/objects/batch": _Handler.offer_uploads,
    "PUT /lfs/(?P<oid>[0-9a-f]{64})": _Handler.take_object,
    f"POST /api/models/{REPO}/commit/{REVISION}": _Handler.make_commit,
}
