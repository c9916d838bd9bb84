"""Endpoints for programs: `gradio_client`, and MCP clients if the server offers them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from mlx_happyhorse.errors import HappyHorseError, RequestError
from mlx_happyhorse.storage import hub

from .jobs.queue import Estimate, Jobs, Order, Snapshot

POLL_SECONDS = 0.1  # between two snapshots of a job that a caller waits for
SETTINGS = """
    Args:
        prompt: Description of picture and sound, ideally 150 to 200 English words.
        image: First frame; it sets the clip's shape.
        audio: Voice to lip-sync, which becomes the clip's sound; it sets the clip's length.
        seconds: Length of the clip; the model's default if omitted.
        width: Width in pixels, a multiple of 32.
        height: Height in pixels, a multiple of 32.
        seed: Random seed; the same seed generates the same clip.
        steps: Number of denoising steps.
        guidance: Guidance scale (1 = off).
        negative_prompt: What to avoid; used if the guidance scale is above 1.
        upscale: "540p" or "1080p".
        model: Name of a model on this machine.
"""


class Endpoints:
    """The functions behind the endpoints. They raise gradio.Error with one plain line for the caller."""

    def __init__(self, jobs: Jobs, model: str):
        """Use `model` for callers that name none."""
        self._jobs, self.model = jobs, model

    async def generate(self, order: Order) -> tuple[gr.FileData, dict[str, Any]]:
        """Generate a clip and wait for it. Cancelling the call stops the job."""
        job = await self.submit(order)
        try:
            while (now := self._snapshot(job)).is_open:
                await asyncio.sleep(POLL_SECONDS)
        except asyncio.CancelledError:
            self._jobs.stop(job)
            raise
        if now.file is None:
            raise gr.Error(now.error or "stopped.", print_exception=False)
        return gr.FileData(path=str(now.file), mime_type="video/mp4"), _without_paths(now.settings)

    async def plan(self, order: Order) -> dict[str, Any]:
        """Return the memory and time that a clip takes, by stage, and whether it fits this machine."""
        return _planned(await asyncio.to_thread(self._jobs.estimate, order))

    async def submit(self, order: Order) -> str:
        """Add a clip to the queue and return the id of its job."""
        estimate = await asyncio.to_thread(self._jobs.estimate, order)
        if estimate.state == "red":
            fix = f" It fits with {_listed(estimate.fix)}." if estimate.fix else ""
            raise gr.Error(f"{estimate.line}{fix}", print_exception=False)
        return self._jobs.submit(order)

    def status(self, job: str) -> dict[str, Any]:
        """Return the progress of a job: its state (queued, running, done, stopped or error), place in the
        queue, stage, step, number of steps and seconds left; once it has ended, the clip's file or the error.

        Args:
            job: Id returned by submit.
        """
        return _status(self._snapshot(job))

    def stop(self, job: str) -> dict[str, Any]:
        """Stop a running job, or remove it from the queue.

        Args:
            job: Id returned by submit.
        """
        self._snapshot(job)
        self._jobs.stop(job)
        return _status(self._snapshot(job))

    def jobs(self) -> list[dict[str, Any]]:
        """Return all jobs since the server started, oldest first."""
        return [_status(job) for job in self._jobs.snapshots()]

    def order(self, prompt: str, image: Any, audio: Any, model: str | None, **settings: Any) -> Order:
        """Return the order of a caller.

        Raises RequestError for a file that was not uploaded and for a model that is not on this machine:
        callers must not make the server open a path or download a model by naming it."""
        name = model or self.model
        if name != self.model and name not in hub.installed():
            known = ", ".join(hub.installed())
            raise RequestError(f"there is no model {name!r} on this machine. Choose one of: {known}.")
        given = {key: value for key, value in settings.items() if value is not None}
        return Order(prompt, name, given, _uploaded(image), _uploaded(audio))

    def _snapshot(self, job: str) -> Snapshot:
        found = self._jobs.snapshot(job)
        if found is None:
            raise gr.Error(f"there is no job {job[:40]!r} since the server started.", print_exception=False)
        return found


def add_endpoints(jobs: Jobs, model: str) -> None:
    """Add the endpoints to the gr.Blocks that is being built."""
    endpoints = Endpoints(jobs, model)
    for call in (endpoints.generate, endpoints.plan, endpoints.submit):
        gr.api(_with_settings(endpoints, call), api_name=call.__name__, concurrency_limit=None)
    gr.api(endpoints.status, api_name="status", queue=False)
    gr.api(endpoints.stop, api_name="stop", queue=False)
    gr.api(endpoints.jobs, api_name="jobs", queue=False)


def _with_settings(endpoints: Endpoints, call: Callable[[Order], Awaitable[Any]]) -> Callable[..., Any]:
    """Return `call` with the settings of a clip as arguments: Gradio reads a function's signature."""

    async def endpoint(
        prompt: str,
        image: gr.FileData | None = None,
        audio: gr.FileData | None = None,
        seconds: float | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        negative_prompt: str | None = None,
        upscale: str | None = None,
        model: str | None = None,
    ) -> Any:
        numbers = {"seconds": seconds, "width": width, "height": height, "seed": seed, "steps": steps}
        words = {"guidance": guidance, "negative_prompt": negative_prompt, "upscale": upscale}
        try:
            return await call(endpoints.order(prompt, image, audio, model, **numbers, **words))
        except HappyHorseError as error:
            raise gr.Error(str(error), print_exception=False) from error

    endpoint.__name__ = call.__name__
    endpoint.__doc__ = f"{call.__doc__}\n{SETTINGS}"
    endpoint.__annotations__["return"] = call.__annotations__["return"]
    return endpoint


def _uploaded(file: Any) -> Path | None:
    """Return the path of an uploaded file. Raises RequestError for any other path."""
    if file is None:
        return None
    path = Path(str(file.get("path") if isinstance(file, dict) else file)).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()) or not path.is_file():
        raise RequestError("image and audio must be uploaded files: use gradio_client.handle_file(path).")
    return path


def _status(job: Snapshot) -> dict[str, Any]:
    return {
        "job": job.id,
        "state": job.state,
        "place": job.place,
        "stage": job.stage,
        "step": job.step,
        "steps": job.steps,
        "seconds_left": round(job.seconds_left, 1),
        "file": None if job.file is None else str(job.file),
        "error": job.error or None,
        "notes": list(job.notes),
    }


def _planned(estimate: Estimate) -> dict[str, Any]:
    plan = estimate.plan
    if plan is None:
        raise gr.Error(estimate.line, print_exception=False)
    stages = [
        {"stage": stage.name, "bytes": stage.bytes, "seconds": round(stage.seconds, 2)}
        for stage in plan.stages
    ]
    return {
        "fits": plan.fits,
        "line": estimate.line,
        "seconds": round(plan.seconds, 2),
        "bytes": plan.needed,
        "usable_bytes": plan.machine.usable,
        "stages": stages,
        "would_fit_with": _as_json(estimate.fix),
    }


def _without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a clip's settings with only the hashes of its first frame and voice: Gradio would send the
    caller every file whose path is in them."""
    values = _as_json(settings)
    for name in ("image", "audio"):
        if values.get(name):
            values[name] = {"sha256": values[name]["sha256"]}
    return values


def _as_json(settings: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return values


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
