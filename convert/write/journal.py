"""Journal of a component's finished tensors and shards, which lets a run resume after it was killed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """A JSON Lines file, synced at every entry; `tensors` and `shards` hold its current state."""

    def __init__(self, path: Path):
        self.path = path
        self.tensors: dict[str, Any] = {}
        self.shards: dict[str, str] = {}
        for line in self._complete_lines():
            if line["kind"] == "begun":
                self._forget(line["value"])
            else:
                getattr(self, line["kind"])[line["name"]] = line["value"]

    def begin(self, shard: str, tensors: list[str]) -> None:
        """Record that a shard file is allocated anew, which invalidates entries of its tensors."""
        self._forget(tensors)
        self._write("begun", shard, tensors)

    def add(self, kind: str, name: str, value: Any) -> None:
        """Record a finished item. `kind` is "tensors", with their quantization errors as value (None if not
        quantized), or "shards", with their SHA-256."""
        getattr(self, kind)[name] = value
        self._write(kind, name, value)

    def _forget(self, tensors: list[str]) -> None:
        for name in tensors:
            self.tensors.pop(name, None)

    def _write(self, kind: str, name: str, value: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "name": name, "value": value}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _complete_lines(self) -> list[dict[str, Any]]:
        """Return all entries; a last line that a killed run left incomplete is truncated."""
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        complete = data.rfind(b"\n") + 1
        os.truncate(self.path, complete)
        return [json.loads(line) for line in data[:complete].splitlines()]
