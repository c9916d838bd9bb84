"""What is done of a component: a line for every finished tensor and shard, so that no run does them again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    def __init__(self, path: Path):
        self.path = path
        self.tensors: dict[str, Any] = {}
        self.shards: dict[str, str] = {}
        for line in self._whole_lines():
            if line["kind"] == "begun":
                self._forget(line["value"])
            else:
                getattr(self, line["kind"])[line["name"]] = line["value"]

    def begin(self, shard: str, tensors: list[str]) -> None:
        """Notes that a shard is laid out anew: whatever was said of its tensors is no longer true."""
        self._forget(tensors)
        self._write("begun", shard, tensors)

    def add(self, kind: str, name: str, value: Any) -> None:
        """`kind` is "tensors", with their errors, or "shards", with their SHA-256."""
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

    def _whole_lines(self) -> list[dict[str, Any]]:
        """Of a file whose last line a run may have left half written."""
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        os.truncate(self.path, whole)
        return [json.loads(line) for line in data[:whole].splitlines()]
