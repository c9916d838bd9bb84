"""The right half of the page: one job, as HTML. All that comes from people or files is escaped."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from urllib.parse import quote

from mlx_happyhorse.planning.plan import duration

from ..jobs.queue import Snapshot
from .texts import Texts


def idle(texts: Texts) -> str:
    return _frame("idle", f'<div class="hh-empty">{escape(texts.idle)}</div>')


def failed(texts: Texts, error: str) -> str:
    """Something that did not even become a job."""
    return _frame("error", _error(texts, error))


def gone(texts: Texts) -> str:
    return _frame("stopped", f'<p class="hh-line">{escape(texts.gone)}</p>')


def show(job: Snapshot, texts: Texts) -> str:
    """A job's stage. The same job gives the same HTML, so that what plays is not replaced."""
    if job.state == "queued":
        place = texts.queued.format(place=job.place)
        return _frame("queued", f'<div class="hh-empty">{escape(place)}</div>')
    if job.state == "running":
        return _running(job, texts)
    if job.state == "done" and job.file is not None:
        return _frame("done", clip(job.file, texts) + _notes(job, texts))
    if job.state == "stopped":
        return _frame("stopped", f'{_preview(job, texts)}<p class="hh-line">{escape(texts.stopped)}</p>')
    return _frame("error", _error(texts, job.error) + _notes(job, texts))


def clip(file: Path, texts: Texts) -> str:
    """A player; the sound is heard once it plays, as browsers play nothing aloud by themselves."""
    source = f"/gradio_api/file={quote(str(file))}"
    return (
        f'<div id="clip"><video controls loop playsinline preload="auto" src="{source}" '
        f'aria-label="{escape(texts.clip)}" title="{escape(file.name)}"></video></div>'
    )


def _running(job: Snapshot, texts: Texts) -> str:
    names = [*job.stages]
    at = names.index(job.stage) if job.stage in names else 0
    done = (at + job.share) / max(len(names), 1)
    parts = [
        f'<li class="{"past" if i < at else "now" if i == at else "next"}">{escape(texts.stage(name))}</li>'
        for i, name in enumerate(names)
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
    line = f'<p class="hh-line"><b>{escape(step)}</b> · {escape(left)} · {escape(memory)}</p>'
    stages = f'<ol class="hh-stages">{"".join(parts)}</ol>'
    return _frame("running", f"{_preview(job, texts)}{bar}{stages}{line}{_notes(job, texts)}", data)


def size(count: float) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


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
    lines = "".join(f"<li>{escape(note)}</li>" for note in job.notes)
    return f'<ul class="hh-notes" aria-label="{escape(texts.notes)}">{lines}</ul>'


def _frame(state: str, content: str, data: str = "") -> str:
    return f'<div id="stage" data-state="{state}" {data}>{content}</div>'
