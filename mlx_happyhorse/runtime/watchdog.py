"""Retries after macOS has ended a command that kept the GPU for too long: the forward pass is repeated with
less work per command, and this machine's later runs start with that share."""

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
SMALLEST = 1 / 16  # share of work; shorter commands are unlikely to be the cause


def is_watchdog(error: RuntimeError) -> bool:
    """Return whether MLX reports a command that macOS ended because it kept the GPU for too long."""
    return re.search(WATCHDOG, str(error)) is not None


def run_with_retries(model: Transformer, *inputs: Any) -> tuple[mx.array, mx.array]:
    """Run one forward pass. If the watchdog ends a command, repeat it with half the work, at most twice.

    Raise MLX's RuntimeError for anything else, and when the last attempt fails too."""
    _materialise(model, inputs)
    for _ in range(RETRIES):
        try:
            return _pass(model, inputs)
        except RuntimeError as error:
            if not is_watchdog(error):
                raise
        _reduce(model)  # outside the handler, where the error still refers to the arrays of the pass
    return _pass(model, inputs)


def _materialise(model: Transformer, inputs: tuple[Any, ...]) -> None:
    """Materialise what outlives a pass: MLX treats all arrays of a failed command as computed.

    Streamed weights are left out, as `WeightStreamer` reads them again."""
    mx.eval(inputs)
    for name, child in model.children().items():
        if name != "layers":
            mx.eval(child.parameters())
    if model.offload is keep_resident:
        for layer in model.layers:
            mx.eval(layer.parameters())


def _pass(model: Transformer, inputs: tuple[Any, ...]) -> tuple[mx.array, mx.array]:
    velocity = model(*inputs)
    mx.synchronize()  # a failed command may be reported after the results of the next one
    return velocity


def _reduce(model: Transformer) -> None:
    """Free the memory of the failed pass, and halve the work per command for this and later runs."""
    settle()
    model.restart()
    mx.clear_cache()
    if model.work.share > SMALLEST:
        model.work = model.work.times(0.5)
    keep_share(model.work.share)
    note(
        "macOS ended a command that kept the GPU for too long: the step is repeated with "
        f"1/{round(1 / model.work.share)} of the usual work per command. {WATCHDOG_HELP}"
    )


def file() -> Path:
    return home() / "work.json"


def share() -> float:
    """Return the share of the usual work per command on this machine: 1 unless the watchdog ended one."""
    kept = read_object(file()).get(_machine())
    if isinstance(kept, int | float) and 0 < kept <= 1:
        return max(float(kept), SMALLEST)
    return 1.0


def keep_share(value: float) -> None:
    """Record a share for later runs, unless it is larger than the recorded one."""
    if value < share():
        store_object(file(), read_object(file()) | {_machine(): value})


def _machine() -> str:
    return str(mx.device_info().get("device_name", "unknown"))
