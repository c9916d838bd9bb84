"""The card of a first visit: what to download, what it takes, and how far it is."""

from __future__ import annotations

from html import escape

from ..downloads import Fetch
from ..offers import Offer, free_disk, gated, licences
from .stage import size
from .texts import Texts

MODEL = "magihuman-distill"  # eight steps without guidance: the one to begin with


def label(offer: Offer, texts: Texts) -> str:
    """What an offer is called where one is chosen."""
    return "bf16" if offer.bits is None else f"{offer.bits} bit"


def card(offers: list[Offer], texts: Texts) -> str:
    """Sizes, memory, free disk and licences, as HTML."""
    heads = (texts.row_model, texts.row_download, texts.row_disk, texts.row_memory, "")
    head = "".join(f"<th scope='col'>{escape(text)}</th>" for text in heads)
    rows = "".join(_row(offer, texts) for offer in offers)
    free = texts.free_disk.format(size=size(free_disk()))
    named = "; ".join(f"{repo}: {name}" for repo, name in licences(MODEL).items())
    locked = "".join(f"<li>{escape(texts.gated.format(repo=repo))}</li>" for repo in gated(MODEL))
    return (
        f"<h2>{escape(texts.welcome)}</h2><p>{escape(texts.welcome_text)} {escape(free)}</p>"
        f'<div class="hh-table"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"<details><summary>{escape(texts.licences)}: {escape(', '.join(gated(MODEL)))}</summary>"
        f'<p class="hh-line">{escape(named)}</p><ul class="hh-notes">{locked}</ul></details>'
    )


def _row(offer: Offer, texts: Texts) -> str:
    remark = texts.recommended if offer.recommended else "" if offer.fits else texts.does_not_fit
    memory = size(offer.memory) + (f", {texts.streamed}" if offer.streamed else "")
    cells = "".join(f"<td>{escape(x)}</td>" for x in (size(offer.fetched), size(offer.stored), memory))
    name = f"<th scope='row'>{escape(label(offer, texts))}</th>"
    return f"<tr>{name}{cells}<td><b>{escape(remark)}</b></td></tr>"


def progress(fetch: Fetch, texts: Texts) -> str:
    """How far a download is, as HTML."""
    lines = {
        "none": "",
        "fetching": texts.fetching.format(done=size(fetch.done), total=size(fetch.total)),
        "done": texts.fetched.format(model=fetch.model),
        "cancelled": texts.cancelled,
        "error": texts.failed,
    }
    line, note = lines[fetch.state], fetch.note
    said = f"<p>{escape(note)}</p>" if note else ""
    share = 100 * fetch.done / max(fetch.total, 1)
    bar = f'<div class="hh-bar"><div style="width:{share:.1f}%"></div></div>'
    return (
        f'<div role="status" id="fetching" data-state="{fetch.state}">'
        f"{bar if fetch.state == 'fetching' else ''}<p>{escape(line)}</p>{said}</div>"
    )
