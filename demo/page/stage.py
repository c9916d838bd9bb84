"""The stage on the right of the page, as HTML: one job or one clip. Text from users and files is escaped."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from urllib.parse import quote

from mlx_happyhorse.planning.plan import duration

from ..jobs.queue import Snapshot
from .html import line, size
from .texts import Texts


def idle(texts: Texts) -> str:
    """Return the stage before the first job."""
    return _frame("idle", f'<div class="hh-empty">{escape(texts.idle)}</div>')


def failed(texts: Texts, error: str) -> str:
    """Return the stage for an order that was refused."""
    return _frame("error", _error(texts, error))


def restarted(texts: Texts) -> str:
    """Return the stage for a job that this process does not know."""
    return _frame("stopped", line(texts.restarted))


def finished(file: Path, texts: Texts) -> str:
    """Return the stage for a clip from the history."""
    return _frame("done", _player(file, texts))


def show(job: Snapshot, texts: Texts) -> str:
    """Return the stage for a job: equal HTML for an unchanged one, so that a playing clip is not replaced."""
    if job.state == "queued":
        place = texts.queued.format(place=job.place)
        return _frame("queued", f'<div class="hh-empty">{escape(place)}</div>')
    if job.state == "running":
        return _running(job, texts)
    if job.state == "done" and job.file is not None:
        return _frame("done", _player(job.file, texts) + _notes(job, texts))
    if job.state == "stopped":
        return _frame("stopped", _preview(job, texts) + line(texts.stopped))
    return _frame("error", _error(texts, job.error) + _notes(job, texts))


def _player(file: Path, texts: Texts) -> str:
    """Return a video player. It does not start by itself: browsers only allow that without sound."""
    source = f"/gradio_api/file={quote(str(file))}"
    return (
        f'<div id="clip"><video controls loop playsinline preload="auto" src="{source}" '
        f'aria-label="{escape(texts.clip)}" title="{escape(file.name)}"></video></div>'
    )


def _running(job: Snapshot, texts: Texts) -> str:
    current = job.stages.index(job.stage) if job.stage in job.stages else 0
    done = (current + job.share) / max(len(job.stages), 1)
    items = [
        f'<li class="{_tense(i, current)}">{escape(texts.stage(name))}</li>'
        for i, name in enumerate(job.stages)
    ]
    step = texts.step_of.format(step=min(job.step + 1, job.steps), steps=job.steps)
    left = texts.left.format(time=duration(job.seconds_left))
    memory = texts.memory.format(size=size(job.memory))
    data = (
        f'data-stage="{escape(job.stage)}" data-step="{job.step}" data-steps="{job.steps}" '
        f'data-seconds-left="{job.seconds_left:.0f}"'
    )
    bar = (
        f'<div class="hh-bar" role="progressbar" aria-label="{escape(texts.stage(job.stage))}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{100 * done:.0f}">'
        f'<div style="width:{100 * done:.1f}%"></div></div>'
    )
    progress = f'<p class="hh-line"><b>{escape(step)}</b> · {escape(left)} · {escape(memory)}</p>'
    stages = f'<ol class="hh-stages">{"".join(items)}</ol>'
    return _frame("running", f"{_preview(job, texts)}{bar}{stages}{progress}{_notes(job, texts)}", data)


def _tense(stage: int, current: int) -> str:
    """Return the CSS class of a stage."""
    return "past" if stage < current else "now" if stage == current else "next"


def _preview(job: Snapshot, texts: Texts) -> str:
    if job.preview is None:
        return '<div class="hh-empty"></div>' if job.state == "running" else ""
    data = base64.b64encode(job.preview).decode()
    return f'<img id="preview" alt="{escape(texts.preview)}" src="data:image/webp;base64,{data}">'


def _error(texts: Texts, error: str) -> str:
    return f'<div id="error" role="alert"><b>{escape(texts.failed)}</b><p>{escape(error)}</p></div>'


def _notes(job: Snapshot, texts: Texts) -> str:
    if not job.notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in job.notes)
    return f'<ul class="hh-notes" aria-label="{escape(texts.notes)}">{items}</ul>'


def _frame(state: str, content: str, data: str = "") -> str:
    return f'<div id="stage" data-state="{state}" {data}>{content}</div>'
