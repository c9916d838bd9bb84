"""The jobs that wait, in a file beside the clips: what a restart of the server finds."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mlx_happyhorse.errors import HappyHorseError, RequestError
from mlx_happyhorse.files import written_beside

from .orders import Order

FILE, INPUTS = ".queue.json", ".inputs"
PATHS = ("image", "audio", "latents")
LARGEST = 4_000_000  # bytes of the file: an order has a few thousand


class WaitingFile:
    """Orders in a hidden file of the clips' folder, written anew at every change."""

    def __init__(self, folder: Path):
        """Raises RequestError where the folder cannot be written."""
        self.path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with written_beside(folder / f"{FILE}.test") as beside:
                beside.touch()
            (folder / f"{FILE}.test").unlink()
        except OSError as error:
            raise RequestError(
                f"clips cannot be saved in {folder}: {error.strerror}. Choose another --output-dir."
            ) from error

    def read(self) -> list[Order]:
        """What an earlier process left; nothing of a damaged file."""
        try:
            if self.path.stat().st_size > LARGEST:
                return []
            return [_order(values) for values in json.loads(self.path.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return []

    def write(self, orders: list[Order]) -> None:
        """A disk that cannot be written costs what a restart would find, not the jobs themselves."""
        try:
            with written_beside(self.path) as beside:
                beside.write_text(json.dumps([asdict(order) for order in orders], default=str))
        except OSError:
            return


def _order(values: dict[str, Any]) -> Order:
    paths = {name: Path(values[name]) if values.get(name) else None for name in PATHS}
    settings = {str(name): _setting(value) for name, value in values["settings"].items()}
    return Order(str(values["prompt"]), str(values["model"]), settings, **paths)


def _setting(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Inputs:
    """Pictures and recordings of orders, copied beside the clips, so that an upload's end is not theirs."""

    def __init__(self, folder: Path, wanted: list[Order]):
        """Removes what no order of `wanted` needs."""
        self.folder = folder / INPUTS
        needed = {path for order in wanted for path in (order.image, order.audio) if path is not None}
        for file in self.folder.glob("*"):
            if file not in needed:
                file.unlink(missing_ok=True)

    def keep(self, order: Order) -> Order:
        """The same order with copies of its files. Raises HappyHorseError where that fails."""
        try:
            return replace(order, image=self._copy(order.image), audio=self._copy(order.audio))
        except OSError as error:
            raise HappyHorseError(f"the picture or recording was not kept: {error.strerror}.") from error

    def _copy(self, source: Path | None) -> Path | None:
        if source is None or source.parent == self.folder:
            return source
        self.folder.mkdir(exist_ok=True)
        with source.open("rb") as file:
            name = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        copy = self.folder / f"{name}{source.suffix}"
        with written_beside(copy) as beside:
            shutil.copyfile(source, beside)
        return copy
