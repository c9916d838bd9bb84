"""The page's endpoints for programs, and what is turned away before it is read."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import frames_of
from helpers.demo_server import Server, serving
from PIL import Image

from mlx_happyhorse import HappyHorse, cli
from mlx_happyhorse.outputs import metadata

gradio_client = pytest.importorskip("gradio_client")
pytest.importorskip("gradio")

SMALL = {"seconds": 0.2, "width": 64, "height": 32, "steps": 1}
ENDPOINTS = {"/generate", "/plan", "/submit", "/status", "/stop", "/jobs"}


@pytest.fixture
def client(server, tmp_path):
    return connect(server, tmp_path)


def connect(server, folder):
    return gradio_client.Client(server.address, verbose=False, download_files=str(folder))


def wait_for(client, job, *states):
    for _ in range(600):
        now = client.predict(job, api_name="/status")
        if now["state"] in states:
            return now
        time.sleep(0.05)
    raise AssertionError(now)


def test_only_what_is_promised_is_public(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert named.keys() == ENDPOINTS
    names = [p["parameter_name"] for p in named["/generate"]["parameters"]]
    assert names[:3] == ["prompt", "image", "audio"] and names[-2:] == ["upscale", "model"]
    assert all(endpoint["description"] for endpoint in named.values())


def test_a_clip_is_the_one_that_the_library_makes(client):
    file, settings = client.predict("a ball", seed=3, **SMALL, api_name="/generate")
    expected = HappyHorse.load("tiny").generate("a ball", seed=3, **SMALL)
    assert settings["seed"] == 3 and settings["prompt"] == "a ball"
    assert len(frames_of(file)) == len(expected.video) and metadata.read(file) == settings


def test_a_first_frame_is_uploaded_and_no_other_path_is_opened(client, tmp_path):
    Image.fromarray(np.full((64, 32, 3), 200, np.uint8)).save(tmp_path / "face.png")
    image = gradio_client.handle_file(str(tmp_path / "face.png"))
    small = {"seconds": 0.2, "steps": 1}
    _, settings = client.predict("a face", image=image, **small, api_name="/generate")
    assert settings["height"] == 2 * settings["width"]
    hostile = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(Exception, match=r"must be uploaded files|Unsupported Media Type"):
        client.predict("a face", image=hostile, **small, api_name="/generate")


def test_a_plan_says_what_a_clip_takes(client):
    plan = client.predict("a ball", **SMALL, api_name="/plan")
    assert plan["fits"] and plan["line"].startswith("≈") and plan["bytes"] < plan["usable_bytes"]
    assert [stage["stage"] for stage in plan["stages"]][-2:] == ["picture", "save"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": " "}, "prompt is required"),
        ({"seconds": 900}, "seconds must be a number from"),
        ({"guidance": 3}, "has no guidance"),
        ({"model": "stranger/horse"}, "there is no model 'stranger/horse' on this machine"),
        ({"model": "/etc"}, "there is no model '/etc' on this machine"),
        ({"upscale": "4k"}, "choose 540p or 1080p"),
    ],
)
def test_wrong_requests_are_answered_in_words(client, wrong, message):
    with pytest.raises(gradio_client.exceptions.AppError, match=message):
        client.predict(**{"prompt": "a ball"} | SMALL | wrong, api_name="/generate")


def test_a_job_is_followed_and_stopped(slow, tmp_path):
    client = connect(slow, tmp_path)
    first = client.predict("a ball", seconds=1, api_name="/submit")
    second = client.predict("a cube", seconds=0.2, steps=1, width=64, height=32, api_name="/submit")
    running = wait_for(client, first, "running")
    assert client.predict(second, api_name="/status")["place"] == 1
    client.predict(first, api_name="/stop")
    assert wait_for(client, first, "stopped")["file"] is None and running["error"] is None
    done = wait_for(client, second, "done")
    assert Path(done["file"]).exists()
    jobs = client.predict(api_name="/jobs")
    assert [job["state"] for job in jobs if job["job"] in (first, second)] == ["stopped", "done"]
    with pytest.raises(gradio_client.exceptions.AppError, match="there is no job"):
        client.predict("nothing", api_name="/status")


def test_callers_that_leave_or_cancel_harm_nobody(server, tmp_path):
    """benchmarks/callers.py does so with twenty, again and again."""
    client = connect(server, tmp_path)
    before = len(client.predict(api_name="/jobs"))
    leaving = (
        "import os, time; from gradio_client import Client; "
        f"c = Client({server.address!r}, verbose=False); "
        f"c.submit('left', **{SMALL!r}, api_name='/generate'); "
        "time.sleep(0.5); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", leaving], check=True)
    other = connect(server, tmp_path)  # a cancel ends all that its client asks for
    long = other.submit("cancelled", **SMALL | {"seconds": 2, "steps": 100}, api_name="/generate")
    stays = [client.submit(f"caller {number}", **SMALL, api_name="/generate") for number in range(3)]
    time.sleep(0.5)
    long.cancel()
    assert len({stay.result(60)[0] for stay in stays}) == 3
    states = [job["state"] for job in client.predict(api_name="/jobs")[before:]]
    assert sorted(states) == ["done"] * 4 + ["stopped"]  # who left gets a clip, as who closes the page does


def test_an_mcp_client_makes_a_clip(server):
    mcp = pytest.importorskip("mcp")
    from mcp.client.streamable_http import streamable_http_client

    async def use():
        async with (
            streamable_http_client(f"{server.address}/gradio_api/mcp/") as (read, write, *_),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            result = await session.call_tool("generate", {"prompt": "a ball", "seed": 4, **SMALL})
            return tools, result

    tools, result = asyncio.run(use())
    assert set(tools) == {name.removeprefix("/") for name in ENDPOINTS}
    assert "First frame" in json.dumps(tools["generate"].inputSchema)
    assert not result.isError and ".mp4" in str(result.content)


def request(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, body, {"Host": f"127.0.0.1:{server.port}"} | headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:7860"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/run/plan"])
def test_foreign_hosts_and_origins_are_refused(server, headers, path):
    status, _ = request(server, "POST" if "run" in path else "GET", path, b"{}", **headers)
    assert status in (403, 421)
    assert request(server, "GET", "/config", Origin=server.address)[0] == 200


def test_of_files_only_clips_are_served(server, client):
    client.predict("a ball", **SMALL, api_name="/generate")
    clip = next(iter(server.clips.glob("*.mp4")))
    route = "/gradio_api/file="
    assert request(server, "GET", f"{route}{clip}")[0] == 200
    (server.clips / "link.mp4").unlink(missing_ok=True)
    (server.clips / "link.mp4").symlink_to("/etc/passwd")
    outside = ["/etc/passwd", f"{server.clips}/../server.log", f"{server.clips}/%2e%2e/server.log"]
    hidden = [f"{server.clips}/.queue.json", f"{server.clips}/link.mp4", f"{server.clips}/.inputs/x.mp4"]
    latents = [str(file) for file in server.clips.glob("*.safetensors")]
    gradio = server.folder / "gradio"
    gradio.mkdir(exist_ok=True)
    (gradio / "other.mp4").write_bytes(b"another program's")
    outside.append(str(gradio / "other.mp4"))
    odd = [f"{server.clips}/x.mp4%00.html", "http://127.0.0.1:1/x.mp4", f"//etc/passwd?{clip}", "C:\\x.mp4"]
    assert latents
    for name in (*outside, *hidden, *latents, *odd):
        assert request(server, "GET", f"{route}{name}")[0] in (400, 403, 404), name
    (server.clips / "link.mp4").unlink()
    assert request(server, "GET", "/gradio_api/proxy=http://127.0.0.1:1/x")[0] == 403


def test_an_upload_of_2_gb_is_refused_before_it_comes(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = (
            "POST /gradio_api/upload HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{server.port}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n"
            f"Content-Length: {2 * 10**9}\r\n\r\n"
        )
        connection.sendall(head.encode())
        started = time.monotonic()
        assert b" 413 " in connection.recv(200)
        assert time.monotonic() - started < 2
    status, _ = request(
        server, "POST", "/gradio_api/upload", iter([b"x"]), **{"Transfer-Encoding": "chunked"}
    )
    assert status == 411


@pytest.mark.parametrize("name", ["x.html", "x.svg", "x.py"])
def test_an_upload_of_another_kind_is_refused(server, name):
    body = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\nx\r\n--x--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert request(server, "POST", "/gradio_api/upload", body, **kind)[0] == 415


def test_a_page_for_others_needs_a_password(capsys, tmp_path):
    for flag in ("--listen", "--share"):
        assert cli.main(["demo", flag, "--output-dir", str(tmp_path)]) == 2
        assert "To require a password, set" in capsys.readouterr().err
    assert cli.main(["demo", "--auth", "me", "--output-dir", str(tmp_path)]) == 2


def test_a_port_that_is_taken_and_a_folder_that_is_read_only_are_said(capsys, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert cli.main(["demo", "--port", port, "--output-dir", str(tmp_path)]) == 2
        assert f"port {port} is in use" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert cli.main(["demo", "--no-browser", "--output-dir", str(tmp_path / "file")]) == 2
    assert "clips cannot be saved in" in capsys.readouterr().err


def test_a_proxy_and_a_password_are_no_obstacle(tmp_path):
    nowhere = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "ALL_PROXY": ""}
    with serving(Server(tmp_path, "--auth", "me:secret", **nowhere)) as server:
        assert request(server, "GET", "/config")[0] == 401
        client = gradio_client.Client(server.address, auth=("me", "secret"), verbose=False)
        assert client.predict("a ball", **SMALL, api_name="/plan")["fits"]
        assert server.end(15) == 0
    assert "Traceback" not in server.log.read_text()
