"""A clip's settings as a command line and as a script."""

from __future__ import annotations

import shlex
from typing import Any

from ..jobs.queue import Order

FLAGS = ("seconds", "width", "height", "ratio", "steps", "guidance", "negative_prompt", "seed", "upscale")


def command(order: Order, made: dict[str, Any]) -> str:
    """`happyhorse …` for the clip that an order became, whose own settings are `made`."""
    if order.latents is not None:
        target = str(order.settings.get("upscale", "540p"))
        return shlex.join(["happyhorse", "upscale", str(order.latents), "--to", target])
    words = ["happyhorse", "generate", "--prompt", order.prompt, "--model", order.model]
    for name, value in _settings(order, made).items():
        words += [f"--{name.replace('_', '-')}", f"{value}"]
    for name in ("image", "audio"):
        if (path := getattr(order, name)) is not None:
            words += [f"--{name}", str(path)]
    return shlex.join([*words, "-o", "clip.mp4"])


def script(order: Order, made: dict[str, Any]) -> str:
    """The same in Python."""
    if order.latents is not None:
        return (
            "from mlx_happyhorse import HappyHorse, Latents\n\n"
            f"horse = HappyHorse.load({order.model!r})\n"
            f"latents = Latents.load({str(order.latents)!r})\n"
            f"*_, last = horse.finish(latents, upscale={order.settings.get('upscale', '540p')!r})\n"
            'last.clip.save("clip.mp4")\n'
        )
    arguments = [repr(order.prompt)]
    arguments += [f"{name}={value!r}" for name, value in _settings(order, made).items()]
    for name in ("image", "audio"):
        if (path := getattr(order, name)) is not None:
            arguments.append(f"{name}={str(path)!r}")
    given = "".join(f"    {argument},\n" for argument in arguments)
    return (
        "from mlx_happyhorse import HappyHorse\n\n"
        f"horse = HappyHorse.load({order.model!r})\n"
        f"clip = horse.generate(\n{given})\n"
        'clip.save("clip.mp4")\n'
    )


def _settings(order: Order, made: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, and the seed that the clip got."""
    given = order.settings | {"seed": made.get("seed", order.settings.get("seed"))}
    return {name: given[name] for name in FLAGS if given.get(name) is not None}
