"""macOS ends a command that keeps the GPU for too long: the forward pass is begun again with less work at a
time, and the smaller share of work is kept for this machine's later runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..files import home, read_object, store_object
from ..models.transformer import Transformer, keep_resident
from ..notes import note
from .memory import WATCHDOG, WATCHDOG_HELP, settle

RETRIES = 2  # of one pass
SMALLEST = 1 / 16  # share: below it commands are so short that the GPU is hardly at fault


def is_watchdog(error: RuntimeError) -> bool:
    """Whether MLX reports a command that macOS ended because it took the GPU too long."""
    return re.search(WATCHDOG, str(error)) is not None


def retried(model: Transformer, *inputs: Any) -> tuple[mx.array, mx.array]:
    """One forward pass. If the watchdog ends a command, it is repeated with half the work, twice at most.

    Raises MLX's RuntimeError for anything else, and when the last attempt fails too."""
    _materialise(model, inputs)
    for _ in range(RETRIES):
        try:
            return _pass(model, inputs)
        except RuntimeError as error:
            if not is_watchdog(error):
                raise
        _reduce(model)  # not in the handler, where the error still holds what the pass has made
    return _pass(model, inputs)


def _materialise(model: Transformer, inputs: tuple[Any, ...]) -> None:
    """Evaluate what outlives a pass: MLX takes all that was part of a failed command for computed.

    Weights that stream are left out, as `WeightStreamer` reads them again."""
    mx.eval(inputs)
    for name, child in model.children().items():
        if name != "layers":
            mx.eval(child.parameters())
    if model.offload is keep_resident:
        for layer in model.layers:
            mx.eval(layer.parameters())


def _pass(model: Transformer, inputs: tuple[Any, ...]) -> tuple[mx.array, mx.array]:
    made = model(*inputs)
    mx.synchronize()  # a failed command may be reported after the results of the next one
    return made


def _reduce(model: Transformer) -> None:
    """Free what the failed pass held, and halve the model's work from here on and for later runs."""
    settle()
    model.restart()
    mx.clear_cache()
    if model.work.share > SMALLEST:
        model.work = model.work.times(0.5)
    keep_share(model.work.share)
    note(
        "macOS ended a command that kept the GPU for too long: the step is begun again with "
        f"1/{round(1 / model.work.share)} of the usual work at a time. {WATCHDOG_HELP}"
    )


def file() -> Path:
    return home() / "work.json"


def share() -> float:
    """How much of the usual work this machine is given at a time: 1 until its watchdog has struck."""
    kept = read_object(file()).get(_machine())
    if isinstance(kept, int | float) and 0 < kept <= 1:
        return max(float(kept), SMALLEST)
    return 1.0


def keep_share(value: float) -> None:
    """Record a smaller share; a larger one than is kept changes nothing."""
    if value < share():
        store_object(file(), read_object(file()) | {_machine(): value})


def _machine() -> str:
    return str(mx.device_info().get("device_name", "unknown"))
