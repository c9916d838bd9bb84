"""What the parts of the page do. Handlers pass orders on and read snapshots; they never compute."""

from __future__ import annotations

import base64
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from mlx_happyhorse.errors import HappyHorseError, RequestError
from mlx_happyhorse.storage import hub

from ..jobs.queue import Estimate, Jobs, Order, Snapshot
from . import commands, stage
from .form import DRAFT, Form, new_seed, written
from .history import Entry, History, restore
from .layout import Page, qualities
from .models import Model
from .styles import COPY
from .texts import LANGUAGES, Texts

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
OPEN = ("queued", "running")


class Events:
    """Handlers of one page, which all of its tabs share: what a tab knows is in its own components."""

    def __init__(self, page: Page, jobs: Jobs):
        self.page, self.jobs, self.history = page, jobs, History(jobs.folder)

    def connect(self, blocks: gr.Blocks) -> None:
        page = self.page
        run: dict[str, Any] = QUIET | {"queue": False}
        everything = [*self._watched(), page.job, page.kept_job, page.clock, page.seed]
        words = list(page.labelled(page.texts))
        blocks.load(
            self.greet,
            [page.kept_job, page.kept_language],
            [page.language, page.job, page.clock, page.models],
            **run,
        ).then(self.translate, [page.language], words, **run).then(
            self.look, self._looking(), self._watched(), **run
        ).then(self.around, [page.language], [page.history, page.banner, page.waiting], **run)
        page.language.input(lambda language: language, [page.language], page.kept_language, **run)
        page.language.input(self.translate, [page.language], words, **run).then(
            self.retell, self._looking(), self._watched(), **run
        )
        choices = [page.seconds, page.quality, page.guided, page.guidance, page.steps]
        page.models.change(self.switch, [page.models, page.language], choices, **run)
        page.generate.click(self.generate, everything_asked(page), everything, **run)
        page.stop.click(self.stop, [page.job], None, **run)
        page.clock.tick(self.look, self._looking(), self._watched(), **run)
        self._connect_estimate(blocks, run)
        self._connect_finished(run)
        self._connect_form(run)

    def _connect_estimate(self, blocks: gr.Blocks, run: dict[str, Any]) -> None:
        """One event for all that the estimate hangs on: two at once could answer in the wrong order."""
        page = self.page
        shown: list[Any] = [page.shape, page.quality, page.models, page.seconds, page.steps, page.guidance]
        shown += [page.first_frame, page.voice, page.extra, page.chosen, page.language]
        planned = [page.estimate, page.fit, page.generate, page.fix]
        gr.on(
            [blocks.load, page.prompt.blur, *(part.change for part in shown)],
            self.estimate,
            everything_asked(page),
            planned,
            trigger_mode="always_last",
            **run,
        )
        for choice in (page.shape.input, page.quality.input, page.models.input):
            choice(lambda: {}, None, page.extra, **run)
        for given in (page.first_frame.change, page.voice.change):
            given(lambda: {}, None, page.extra, **run)
        mended = [page.seconds, page.quality, page.extra]
        page.fit.click(self.mend, [page.fix, page.seconds], mended, **run).then(
            self.estimate, everything_asked(page), planned, **run
        )

    def _connect_finished(self, run: dict[str, Any]) -> None:
        page = self.page
        fields = [page.prompt, page.shape, page.seconds, page.quality, page.seed, page.steps, page.extra]
        started = [*self._watched(), page.job, page.kept_job, page.clock, page.seed]
        page.reuse.click(self.reuse, [page.chosen, page.language], [*fields, page.told], **run)
        page.again.click(self.again, [page.chosen, page.job, page.language], started, **run)
        page.upscale.click(self.upscale, [page.chosen, page.quality, page.language], started, **run)
        page.copy_command.click(None, [page.command_text], None, js=COPY, api_visibility="private")
        page.copy_python.click(None, [page.script_text], None, js=COPY, api_visibility="private")
        page.history.click(self.pick, [page.language], self._watched(), **run)
        page.drop.upload(self.dropped, [page.drop, page.language], [*fields, page.told], **run).then(
            lambda: None, None, page.drop, **run
        )
        page.resume.click(
            self.resume, [page.language], [page.job, page.kept_job, page.clock, page.banner], **run
        )
        page.discard.click(self.discard, None, page.banner, **run)

    def _connect_form(self, run: dict[str, Any]) -> None:
        page = self.page
        opened = gr.State(False)
        page.format_help.click(
            lambda is_open, prompt: (not is_open, gr.update(visible=not is_open), prompt),
            [opened, page.prompt],
            [opened, page.form, page.format_description],
            **run,
        )
        page.format_write.click(
            self.write,
            [page.format_description, page.format_sound, *page.lines],
            [page.prompt, page.told],
            **run,
        )

    # What the estimate line says.

    def estimate(self, *values: Any) -> list[Any]:
        *fields, language = values
        texts = Texts.of(language)
        try:
            found = self.jobs.estimate(Form(*fields).order(prompt="…"))
        except HappyHorseError as error:
            found = Estimate("red", str(error))
        line = f'<div id="estimate" role="status" data-state="{found.state}">{escape(found.line)}</div>'
        words = texts.fix_with.format(change=_change(found.fix, texts)) if found.fix else ""
        return [
            line,
            gr.update(visible=bool(found.fix), value=words),
            gr.update(interactive=found.state != "red"),
            found.fix,
        ]

    def mend(self, fix: dict[str, Any], seconds: float) -> list[Any]:
        """Put the change that fits into the fields."""
        extra = {name: value for name, value in fix.items() if name not in ("upscale", "seconds")}
        extra = {name: value for name, value in extra.items() if value is not None}
        quality = gr.update(value=DRAFT) if fix.get("upscale", "") is None else gr.skip()
        if "seconds" in fix:
            whole = int(fix["seconds"])
            if whole >= 1:
                return [gr.update(value=whole, minimum=min(whole, 3)), quality, extra]
            extra["seconds"] = fix["seconds"]
        return [gr.skip(), quality, extra]

    # Jobs.

    def generate(self, *values: Any) -> list[Any]:
        *fields, language = values
        form, texts = Form(*fields), Texts.of(language)
        if not form.prompt.strip():
            return self._refused(texts, texts.empty_prompt)
        if not form.lock or form.seed is None:
            form = form._replace(seed=new_seed())
        return self._submit(form.order, texts)

    def again(self, chosen: str, job: str, language: str) -> list[Any]:
        order = self._order_of(chosen)
        texts = Texts.of(language)
        if order is None:
            return self._refused(texts, texts.gone)
        settings = order.settings | {"seed": new_seed()}
        return self._submit(lambda: replace(order, settings=settings), texts)

    def upscale(self, chosen: str, quality: str, language: str) -> list[Any]:
        entry, texts = self._entry(chosen), Texts.of(language)
        if entry is None or entry.latents is None:
            return self._refused(texts, texts.gone)
        size = quality if quality != DRAFT else "540p"
        latents, model = entry.latents, str(entry.settings["model"])
        prompt = str(entry.settings["prompt"])
        return self._submit(lambda: Order(prompt, model, {"upscale": size}, latents=latents), texts)

    def _submit(self, make: Any, texts: Texts) -> list[Any]:
        try:
            order = make()
            job = self.jobs.submit(order)
        except HappyHorseError as error:
            return self._refused(texts, str(error))
        seed = order.settings.get("seed", gr.skip())
        return [*self._look(job, texts, "", ""), job, job, gr.Timer(active=True), seed]

    def _refused(self, texts: Texts, why: str) -> list[Any]:
        shown = stage.failed(texts, why)
        watched = [shown, shown, *[gr.skip()] * (len(self._watched()) - 2)]
        return [*watched, gr.skip(), gr.skip(), gr.skip(), gr.skip()]

    def stop(self, job: str) -> None:
        self.jobs.stop(job)

    def resume(self, language: str) -> list[Any]:
        jobs = self.jobs.resume()
        last = jobs[-1] if jobs else ""
        return [last, last, gr.Timer(active=bool(jobs)), gr.update(visible=False)]

    def discard(self) -> Any:
        self.jobs.discard()
        return gr.update(visible=False)

    # The stage.

    def _watched(self) -> list[Any]:
        page = self.page
        return [
            page.stage,
            page.shown,
            page.stop,
            page.actions,
            page.upscale,
            page.download,
            page.command_text,
            page.script_text,
            page.chosen,
            page.clock,
            page.history,
        ]

    def _looking(self) -> list[Any]:
        page = self.page
        return [page.job, page.language, page.shown, page.chosen]

    def look(self, job: str, language: str, shown: str, chosen: str) -> list[Any]:
        """Show how far a tab's job is, where that has changed."""
        shown = shown or stage.idle(self.page.texts)  # as the page begins
        return self._look(job, Texts.of(language), shown, chosen)

    def retell(self, job: str, language: str, shown: str, chosen: str) -> list[Any]:
        """The same in another language, whatever is shown already."""
        if not job and chosen and (entry := self._entry(chosen)) is not None:
            return self._finished(entry, Texts.of(language), language)
        return self._look(job, Texts.of(language), "", chosen)

    def _look(self, job: str, texts: Texts, shown: str, chosen: str) -> list[Any]:
        now = self.jobs.snapshot(job) if job else None
        if now is None:
            html = stage.gone(texts) if job else stage.idle(texts)
            return self._told(html, shown, gr.update(interactive=False), gr.Timer(active=False))
        if now.state in OPEN:
            return self._told(
                stage.show(now, texts), shown, gr.update(interactive=True), gr.Timer(active=True)
            )
        return self._ended(now, texts, shown)

    def _told(self, html: str, shown: str, stop: Any, clock: Any) -> list[Any]:
        if html == shown:
            return [gr.skip()] * len(self._watched())
        hidden = gr.update(visible=False)
        return [html, html, stop, hidden, *[gr.skip()] * 5, clock, gr.skip()]

    def _ended(self, job: Snapshot, texts: Texts, shown: str) -> list[Any]:
        html = stage.show(job, texts)
        if html == shown:
            return [gr.skip()] * len(self._watched())
        done = job.file is not None
        return [
            html,
            html,
            gr.update(interactive=False),
            gr.update(visible=done),
            gr.update(visible=job.latents is not None and bool(Model.of(job.order.model).upscalers)),
            gr.update(value=str(job.file)) if done else gr.skip(),
            commands.command(job.order, job.settings),
            commands.script(job.order, job.settings),
            job.file.name if job.file is not None else "",
            gr.Timer(active=False),
            self._gallery(texts),
        ]

    def pick(self, language: str, event: gr.EventData) -> list[Any]:
        """Show a clip of the history."""
        texts, entry = Texts.of(language), self._entry(str(getattr(event, "name", "")))
        if entry is None:
            return [gr.skip()] * len(self._watched())
        return self._finished(entry, texts, language)

    def _finished(self, entry: Entry, texts: Texts, language: str) -> list[Any]:
        html = f'<div id="stage" data-state="done">{stage.clip(entry.file, texts)}</div>'
        order = _order(entry)
        return [
            html,
            html,
            gr.skip(),
            gr.update(visible=True),
            gr.update(visible=entry.latents is not None),
            gr.update(value=str(entry.file)),
            commands.command(order, entry.settings),
            commands.script(order, entry.settings),
            entry.file.name,
            gr.Timer(active=False),
            gr.skip(),
        ]

    # Settings of earlier clips.

    def reuse(self, chosen: str, language: str) -> list[Any]:
        entry = self._entry(chosen)
        return self._restored(None if entry is None else entry.file, language)

    def dropped(self, file: str | None, language: str) -> list[Any]:
        clip = file is not None and file.lower().endswith(".mp4")
        return self._restored(Path(file) if file is not None and clip else None, language)

    def _restored(self, file: Path | None, language: str) -> list[Any]:
        texts, kept = Texts.of(language), [gr.skip()] * 7
        if file is None:
            return [*kept, ""]
        try:
            said = restore(file)
        except RequestError as error:
            return [*kept, _lines([str(error).replace(str(file), file.name)])]
        settings = said.settings
        extra = {name: settings[name] for name in ("width", "height") if name in settings}
        lines = [texts.restored]
        lines += [texts.choose_image.format(name=said.image)] if said.image else []
        lines += [texts.choose_audio.format(name=said.audio)] if said.audio else []
        lines += [] if said.model_is_here else [texts.choose_model.format(name=said.model)]
        return [
            said.prompt,
            gr.skip(),
            round(settings.get("seconds", 5)) or 1,
            settings.get("upscale", DRAFT),
            settings.get("seed"),
            settings.get("steps", gr.skip()),
            extra,
            _lines(lines),
        ]

    def write(self, description: str, sound: str, *lines: str) -> list[Any]:
        try:
            return [written(description, sound, *lines), ""]
        except RequestError as error:
            return [gr.skip(), _lines([str(error)])]

    # Around it.

    def greet(self, kept: str, said: str, request: gr.Request) -> list[Any]:
        """A tab that is opened or reloaded: its language, its job, the models."""
        wanted = (said or str(request.headers.get("accept-language", ""))).lower()
        known = kept if kept and self.jobs.snapshot(kept) is not None else ""
        models = [*dict.fromkeys([self.page.model.name, *hub.installed()])]
        language = "zh" if wanted.startswith("zh") else "en"
        return [language, known, gr.Timer(active=bool(known)), gr.update(choices=models)]

    def translate(self, language: str) -> list[Any]:
        texts = Texts.of(language if language in LANGUAGES else "en")
        return list(self.page.labelled(texts).values())

    def around(self, language: str) -> list[Any]:
        texts, left = Texts.of(language), len(self.jobs.left_over())
        waiting = f'<p class="hh-line">{escape(texts.waiting.format(count=left))}</p>'
        return [self._gallery(texts), gr.update(visible=left > 0), waiting]

    def switch(self, name: str, language: str) -> list[Any]:
        """The choices of another model."""
        model, texts = Model.of(name), Texts.of(language)
        low, usual, high = model.lengths
        return [
            gr.update(minimum=low, maximum=high, value=usual),
            gr.update(choices=qualities(model, texts), value=DRAFT),
            gr.update(visible=model.guided),
            gr.update(value=model.sampling["guidance"]),
            gr.update(value=model.sampling["steps"]),
        ]

    def _gallery(self, texts: Texts) -> str:
        entries = self.history.entries()
        if not entries:
            return ""
        posters = "".join(_poster(entry) for entry in entries)
        return f'<p class="hh-title">{escape(texts.history)}</p><div class="hh-history">{posters}</div>'

    def _entry(self, name: str) -> Entry | None:
        return next((entry for entry in self.history.entries() if entry.file.name == name), None)

    def _order_of(self, name: str) -> Order | None:
        for job in self.jobs.all():
            if job.file is not None and job.file.name == name and job.order.latents is None:
                return job.order
        entry = self._entry(name)
        return None if entry is None else _order(entry)


def everything_asked(page: Page) -> list[Any]:
    """The inputs of `Events.estimate` and `Events.generate`."""
    return [*page.fields, page.language]


def _order(entry: Entry) -> Order:
    """The order that made a clip, without its picture and recording: those are not opened by their names."""
    said = restore(entry.file)
    return Order(said.prompt, said.model, said.settings)


def _poster(entry: Entry) -> str:
    data = base64.b64encode(entry.poster).decode()
    name, label = escape(entry.file.name), escape(str(entry.settings["prompt"])[:120])
    return (
        f'<button type="button" data-name="{name}" aria-label="{label}" title="{label}">'
        f'<img alt="" src="data:image/jpeg;base64,{data}"></button>'
    )


def _change(fix: dict[str, Any], texts: Texts) -> str:
    parts = []
    if fix.get("upscale", "") is None:
        parts.append(texts.fix_no_upscale)
    if "seconds" in fix:
        parts.append(texts.fix_seconds.format(seconds=fix["seconds"]))
    if "width" in fix:
        parts.append(texts.fix_size.format(width=fix["width"], height=fix["height"]))
    if fix.get("upscale_size"):
        width, height = fix["upscale_size"]
        parts.append(texts.fix_upscale_size.format(width=width, height=height))
    return ", ".join(parts)


def _lines(lines: list[str]) -> str:
    return "".join(f'<p class="hh-line" role="status">{escape(line)}</p>' for line in lines)
