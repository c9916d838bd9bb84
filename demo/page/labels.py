"""Put the components of the page into a language."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .form import qualities
from .layout import Page
from .texts import Texts


def labels(page: Page, texts: Texts) -> dict[Any, Any]:
    """Return the updates of all components that carry text of their own."""
    updates = {part: gr.update(label=label) for part, label in _labels(page, texts).items()}
    updates |= {button: gr.update(value=text) for button, text in _buttons(page, texts).items()}
    choices = qualities(page.default_model, texts)
    updates[page.quality] = gr.update(label=texts.quality, choices=choices)
    updates[page.prompt] = gr.update(label=texts.prompt, placeholder=texts.prompt_placeholder)
    return updates


def _labels(page: Page, texts: Texts) -> dict[Any, str]:
    labels = {
        page.format_description: texts.format_description,
        page.format_sound: texts.format_sound,
        page.inputs: texts.inputs,
        page.own_weights: texts.own_weights,
        page.first_frame: texts.first_frame,
        page.voice: texts.voice,
        page.shape: texts.shape,
        page.seconds: texts.seconds,
        page.advanced: texts.advanced,
        page.model: texts.model,
        page.seed: texts.seed,
        page.lock_seed: texts.lock_seed,
        page.steps: texts.steps,
        page.guidance: texts.guidance,
        page.negative_prompt: texts.negative_prompt,
        page.own_folder: texts.own_folder,
        page.language: texts.language,
        page.download: texts.download,
        page.restore_file: texts.restore_file,
    }
    for i, part in enumerate(page.format_lines):
        labels[part] = (texts.format_speaker, texts.format_language, texts.format_words)[i % 3]
    return labels


def _buttons(page: Page, texts: Texts) -> dict[Any, str]:
    return {
        page.format_help: texts.format_help,
        page.format_write: texts.format_write,
        page.generate: texts.generate,
        page.stop: texts.stop,
        page.resume: texts.resume,
        page.discard: texts.discard,
        page.cancel_download: texts.cancel_download,
        page.try_tiny: texts.try_tiny,
        page.use_folder: texts.use_folder,
        page.reuse: texts.reuse,
        page.again: texts.again,
        page.upscale: texts.upscale,
        page.copy_command: texts.copy_command,
        page.copy_python: texts.copy_python,
    }
