"""The card of the first run, as HTML: the weights to download, their size, and the progress."""

from __future__ import annotations

from html import escape

from ..downloads import DownloadStatus
from ..offers import Offer, free_disk, gated, licences
from .html import line, size
from .texts import Texts

MODEL = "magihuman-distill"  # eight steps without guidance: about eight times as fast as the base model


def label(offer: Offer) -> str:
    """Return the name of an offer in the list of choices."""
    return "bf16" if offer.bits is None else f"{offer.bits} bit"


def card(offers: list[Offer], texts: Texts) -> str:
    """Return sizes, memory, free disk and licences as HTML."""
    columns = (texts.column_variant, texts.column_download, texts.column_disk, texts.column_memory, "")
    head = "".join(f"<th scope='col'>{escape(column)}</th>" for column in columns)
    rows = "".join(_row(offer, texts) for offer in offers)
    free = texts.free_disk.format(size=size(free_disk()))
    licence_list = "; ".join(f"{repo}: {name}" for repo, name in licences(MODEL).items())
    steps = "".join(f"<li>{escape(texts.gated.format(repo=repo))}</li>" for repo in gated(MODEL))
    return (
        f"<h2>{escape(texts.welcome)}</h2><p>{escape(texts.welcome_text)} {escape(free)}</p>"
        f'<div class="hh-table"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"<details><summary>{escape(texts.licences)}: {escape(', '.join(gated(MODEL)))}</summary>"
        f'{line(licence_list)}<ul class="hh-notes">{steps}</ul></details>'
    )


def _row(offer: Offer, texts: Texts) -> str:
    remark = texts.recommended if offer.recommended else "" if offer.fits else texts.does_not_fit
    memory = size(offer.memory) + (f", {texts.streamed}" if offer.streamed else "")
    cells = "".join(f"<td>{escape(x)}</td>" for x in (size(offer.fetched), size(offer.stored), memory))
    name = f"<th scope='row'>{escape(label(offer))}</th>"
    return f"<tr>{name}{cells}<td><b>{escape(remark)}</b></td></tr>"


def progress(status: DownloadStatus, texts: Texts) -> str:
    """Return the progress of a download as HTML."""
    texts_by_state = {
        "none": "",
        "downloading": texts.downloading.format(done=size(status.done), total=size(status.total)),
        "done": texts.downloaded.format(model=status.model),
        "cancelled": texts.cancelled,
        "error": texts.failed,
    }
    text = f"<p>{escape(texts_by_state[status.state])}</p>"
    note = f"<p>{escape(status.note)}</p>" if status.note else ""
    percent = 100 * status.done / max(status.total, 1)
    bar = f'<div class="hh-bar"><div style="width:{percent:.1f}%"></div></div>'
    return (
        f'<div role="status" id="fetching" data-state="{status.state}">'
        f"{bar if status.state == 'downloading' else ''}{text}{note}</div>"
    )
