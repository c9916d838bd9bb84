"""Write a clip's settings as a shell command and as a Python script."""

from __future__ import annotations

import shlex
from typing import Any

from ..jobs.queue import Order

SETTINGS = ("seconds", "width", "height", "ratio", "steps", "guidance", "negative_prompt", "seed", "upscale")


def command(order: Order, clip_settings: dict[str, Any]) -> str:
    """Return the `happyhorse` command that generates a clip again: its order, with the clip's own seed."""
    if order.latents is not None:
        size = str(order.settings.get("upscale", "540p"))
        return shlex.join(["happyhorse", "upscale", str(order.latents), "--to", size])
    words = ["happyhorse", "generate", "--prompt", order.prompt, "--model", order.model]
    for name, value in _settings(order, clip_settings).items():
        words += [f"--{name.replace('_', '-')}", f"{value}"]
    for name in ("image", "audio"):
        if (path := getattr(order, name)) is not None:
            words += [f"--{name}", str(path)]
    return shlex.join([*words, "-o", "clip.mp4"])


def script(order: Order, clip_settings: dict[str, Any]) -> str:
    """Return the Python script that generates a clip again."""
    if order.latents is not None:
        return (
            "from mlx_happyhorse import HappyHorse, Latents\n\n"
            f"horse = HappyHorse.load({order.model!r})\n"
            f"latents = Latents.load({str(order.latents)!r})\n"
            f"*_, last = horse.finish(latents, upscale={order.settings.get('upscale', '540p')!r})\n"
            'last.clip.save("clip.mp4")\n'
        )
    arguments = [repr(order.prompt)]
    arguments += [f"{name}={value!r}" for name, value in _settings(order, clip_settings).items()]
    for name in ("image", "audio"):
        if (path := getattr(order, name)) is not None:
            arguments.append(f"{name}={str(path)!r}")
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return (
        "from mlx_happyhorse import HappyHorse\n\n"
        f"horse = HappyHorse.load({order.model!r})\n"
        f"clip = horse.generate(\n{lines})\n"
        'clip.save("clip.mp4")\n'
    )


def _settings(order: Order, clip_settings: dict[str, Any]) -> dict[str, Any]:
    settings = order.settings | {"seed": clip_settings.get("seed", order.settings.get("seed"))}
    return {name: settings[name] for name in SETTINGS if settings.get(name) is not None}
