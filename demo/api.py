"""The endpoints for programs: `gradio_client`, and MCP clients where the server is told to."""

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

TICK = 0.1  # seconds between two looks at a job
SETTINGS = """
    Args:
        prompt: What is seen and heard, best in 150 to 200 English words.
        image: The first frame; the clip takes its shape.
        audio: A recording that the clip is made to and carries; the clip takes its length.
        seconds: The clip's length, the model's own by default.
        width: Pixels, a multiple of 32.
        height: Pixels, a multiple of 32.
        seed: The same seed makes the same clip; random by default.
        steps: Steps of denoising.
        guidance: Guidance scale; 1 is off.
        negative_prompt: What to avoid, where the guidance scale is above 1.
        upscale: "540p" or "1080p".
        model: The name of a model on this machine.
"""


class Endpoints:
    """What programs can call. Methods raise gradio.Error, a plain line, for what cannot be done."""

    def __init__(self, jobs: Jobs, model: str):
        """`model` is the one that is used where a caller names none."""
        self._jobs, self.model = jobs, model

    async def generate(self, order: Order) -> tuple[gr.FileData, dict[str, Any]]:
        """Make a clip and wait for it. A caller that cancels ends the job."""
        job = await self.submit(order)
        try:
            while (now := self._snapshot(job)).state in ("queued", "running"):
                await asyncio.sleep(TICK)
        except asyncio.CancelledError:
            self._jobs.stop(job)
            raise
        if now.file is None:
            raise gr.Error(now.error or "stopped.", print_exception=False)
        return gr.FileData(path=str(now.file), mime_type="video/mp4"), _described(now.settings)

    async def plan(self, order: Order) -> dict[str, Any]:
        """What a clip would take."""
        return _planned(await asyncio.to_thread(self._jobs.estimate, order))

    async def submit(self, order: Order) -> str:
        """Put a clip into the queue and return its job's id."""
        estimate = await asyncio.to_thread(self._jobs.estimate, order)
        if estimate.state == "red":
            fix = f" It would fit with {_named(estimate.fix)}." if estimate.fix else ""
            raise gr.Error(f"{estimate.line}{fix}", print_exception=False)
        return self._jobs.submit(order)

    def status(self, job: str) -> dict[str, Any]:
        """How far a job is: state (queued, running, done, stopped or error), place in the queue, stage, step
        of steps, seconds left, and in the end the clip's file or the error.

        Args:
            job: The id that submit returned.
        """
        return _status(self._snapshot(job))

    def stop(self, job: str) -> dict[str, Any]:
        """End a job at the next block, or take it out of the queue.

        Args:
            job: The id that submit returned.
        """
        self._snapshot(job)
        self._jobs.stop(job)
        return _status(self._snapshot(job))

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs since the server started, oldest first."""
        return [_status(job) for job in self._jobs.all()]

    def order(self, prompt: str, image: Any, audio: Any, model: str | None, **settings: Any) -> Order:
        """What a caller asks for. Raises RequestError for files that were not uploaded, and for models that
        are not here: a program gets nothing fetched or opened by naming it."""
        name = model or self.model
        if name != self.model and name not in hub.installed():
            known = ", ".join(hub.installed())
            raise RequestError(f"there is no model {name!r} on this machine: choose of {known}.")
        given = {key: value for key, value in settings.items() if value is not None}
        return Order(prompt, name, given, _uploaded(image), _uploaded(audio))

    def _snapshot(self, job: str) -> Snapshot:
        found = self._jobs.snapshot(job)
        if found is None:
            raise gr.Error(f"there is no job {job[:40]!r} since the server started.", print_exception=False)
        return found


def add_endpoints(jobs: Jobs, model: str) -> None:
    """Add the endpoints to the page that is being built."""
    endpoints = Endpoints(jobs, model)
    for call in (endpoints.generate, endpoints.plan, endpoints.submit):
        gr.api(_taking_settings(endpoints, call), api_name=call.__name__, concurrency_limit=None)
    gr.api(endpoints.status, api_name="status", queue=False)
    gr.api(endpoints.stop, api_name="stop", queue=False)
    gr.api(endpoints.jobs, api_name="jobs", queue=False)


def _taking_settings(endpoints: Endpoints, call: Callable[[Order], Awaitable[Any]]) -> Callable[..., Any]:
    """`call` with a clip's settings as its arguments: Gradio reads names, types and texts of a function."""

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
    """The path of an upload. Raises RequestError for any other path of this machine."""
    if file is None:
        return None
    path = Path(str(file.get("path") if isinstance(file, dict) else file)).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()) or not path.is_file():
        raise RequestError(
            "a picture or recording is uploaded with the call: gradio_client.handle_file(path)."
        )
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
    stages = [{"stage": s.name, "bytes": s.bytes, "seconds": round(s.seconds, 2)} for s in plan.stages]
    return {
        "fits": plan.fits,
        "line": estimate.line,
        "seconds": round(plan.seconds, 2),
        "bytes": plan.needed,
        "usable_bytes": plan.machine.usable,
        "stages": stages,
        "would_fit_with": _plain(estimate.fix),
    }


def _described(settings: dict[str, Any]) -> dict[str, Any]:
    """What a clip says of itself, its picture and recording by their hashes: Gradio takes what has a path for
    a file that the caller is to get."""
    values = _plain(settings)
    for name in ("image", "audio"):
        if values.get(name):
            values[name] = {"sha256": values[name]["sha256"]}
    return values


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return values


def _named(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
