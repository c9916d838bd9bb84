"""Keep open orders and their files on disk, so that a restarted server can resume them."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mlx_happyhorse.errors import HappyHorseError, RequestError
from mlx_happyhorse.files import atomic_write

from .orders import Order

FILE, INPUTS = ".queue.json", ".inputs"
PATHS = ("image", "audio", "latents")
MAX_BYTES = 4_000_000  # of the file: an order has a few thousand


class QueueFile:
    """A hidden file of orders in the folder of clips, rewritten at every change."""

    def __init__(self, folder: Path):
        """Raises RequestError if the folder is not writable."""
        self.path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(folder / f"{FILE}.test") as beside:
                beside.touch()
            (folder / f"{FILE}.test").unlink()
        except OSError as error:
            raise RequestError(
                f"clips cannot be saved in {folder}: {error.strerror}. Choose another folder."
            ) from error

    def read(self) -> list[Order]:
        """Return the orders that an earlier process did not finish; none if the file is damaged."""
        try:
            if self.path.stat().st_size > MAX_BYTES:
                return []
            return [_order(values) for values in json.loads(self.path.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return []

    def write(self, orders: list[Order]) -> None:
        """Replace the orders. A full disk is ignored: jobs run, but a restart cannot resume them."""
        try:
            with atomic_write(self.path) as beside:
                beside.write_text(json.dumps([asdict(order) for order in orders], default=str))
        except OSError:
            return


def _order(values: dict[str, Any]) -> Order:
    paths = {name: Path(values[name]) if values.get(name) else None for name in PATHS}
    settings = {str(name): _setting(value) for name, value in values["settings"].items()}
    return Order(str(values["prompt"]), str(values["model"]), settings, **paths)


def _setting(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON has no tuples


class InputFiles:
    """First frames and voices of orders, copied beside the clips: uploads are deleted with the server."""

    def __init__(self, folder: Path, orders: list[Order]):
        """Delete the files that none of the `orders` needs."""
        self.folder = folder / INPUTS
        needed = {path for order in orders for path in (order.image, order.audio) if path is not None}
        for file in self.folder.glob("*"):
            if file not in needed:
                file.unlink(missing_ok=True)

    def keep(self, order: Order) -> Order:
        """Return the order with copies of its files. Raises HappyHorseError if copying fails."""
        try:
            return replace(order, image=self._copy(order.image), audio=self._copy(order.audio))
        except OSError as error:
            raise HappyHorseError(f"the first frame or voice cannot be copied: {error.strerror}.") from error

    def _copy(self, source: Path | None) -> Path | None:
        if source is None or source.parent == self.folder:
            return source
        self.folder.mkdir(exist_ok=True)
        with source.open("rb") as file:
            name = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        copy = self.folder / f"{name}{source.suffix}"
        with atomic_write(copy) as beside:
            shutil.copyfile(source, beside)
        return copy
