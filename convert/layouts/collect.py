"""Sources → the components of one model: what is there, what each is, and what had to be left out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from mlx_happyhorse.errors import ModelError, RequestError
from mlx_happyhorse.storage.hub import VARIANTS
from mlx_happyhorse.storage.weights import build, check

from ..read.checkpoint import Checkpoint, checkpoints
from ..read.pickles import ENDINGS
from ..read.sources import Source
from .converted import converted, is_converted
from .published import Component, components

# The 1080p upscaler looks at the whole clip in every fourth layer only; its tensors do not show it.
GLOBAL_LAYERS_1080P = (3, 7, 11, 15, 19, 23, 27, 31)
UPSCALERS = {"540p": "upscaler_540p", "1080p": "upscaler_1080p"}
EXPECTED = (
    "a MagiHuman transformer or Turbo decoder (GAIR's or FastVideo's files), T5-Gemma, the Wan 2.2 VAE, "
    "Stable Audio, or a model folder of ours"
)


@dataclass(frozen=True)
class Place:
    """Where to look: the folder `under` in a source, for `component` if that is said."""

    source: Source
    under: str = ""
    component: str | None = None

    def __str__(self) -> str:
        return f"{self.source.name}/{self.under}" if self.under else self.source.name


class Found(NamedTuple):
    component: Component
    checkpoint: Checkpoint


@dataclass
class Collection:
    """Components by name; `notes` say what was left out and why."""

    variant: str | None = None
    found: dict[str, Found] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, place: Place) -> None:
        """Takes up all that is at a place. Raises ModelError or RequestError."""
        seen: list[str] = []
        taken = False
        for checkpoint in checkpoints(place.source, place.under):
            held = read(checkpoint, place.component)
            wanted = {n: c for n, c in held.items() if place.component in (None, n)}
            for name, component in wanted.items():
                self._take(name, component, checkpoint)
            taken = taken or bool(wanted)
            if not wanted:
                seen.append(f"{checkpoint.label} holds {' and '.join(held) or 'nothing that is known'}")
        if not taken:
            what = seen[0] if seen else "there is no .safetensors, .ckpt or .pth file"
            raise ModelError(
                f"{place} is no {place.component or 'checkpoint'}: {what}. Expected: {EXPECTED}."
            )
        self.notes += [f"left out: {line}" for line in seen]

    def _take(self, name: str, component: Component, checkpoint: Checkpoint) -> None:
        if name == "transformer" and self._is_other_variant(checkpoint):
            self.notes.append(f"left out: {checkpoint.label} is not the {self.variant} transformer")
            return
        new = Found(component, checkpoint)
        old = self.found.get(name)
        if old is None:
            self.found[name] = new
        elif kept := _preferred(old, new):
            self.found[name] = kept
            left = new if kept is old else old
            self.notes.append(f"left out: the {name} of {left.checkpoint.label}, another takes its place")
        else:
            raise RequestError(
                f"{checkpoint.label} and {old.checkpoint.label} are both {name}: give one, say --variant, "
                f"or name an upscaler as upscaler_540p=PATH."
            )

    def _is_other_variant(self, checkpoint: Checkpoint) -> bool:
        told = variant_of(checkpoint)
        return self.variant is not None and told not in (None, self.variant)


def collect(places: Iterable[Place], variant: str | None = None) -> Collection:
    collection = Collection(variant)
    for place in places:
        collection.add(place)
    return collection


def variant_of(checkpoint: Checkpoint) -> str | None:
    """base or distill, as the names of the file or of the folders around it say."""
    for name in _names(checkpoint):
        told = [variant for variant in VARIANTS if re.search(rf"(?<![a-z]){variant}(?![a-z])", name)]
        if told:
            return told[0] if len(told) == 1 else None
    return None


def read(checkpoint: Checkpoint, wanted: str | None = None) -> dict[str, Component]:
    """What a checkpoint holds, by the components' names, with names and shapes as they have to be.

    A transformer is an upscaler if that is `wanted`, or if the folder's name says so."""
    try:
        held = converted(checkpoint) if is_converted(checkpoint) else components(checkpoint)
        for component in held.values():
            check(build(component.config), {name: tensor.shape for name, tensor in component.tensors.items()})
    except ModelError as error:
        label = "" if str(error).startswith(checkpoint.label) else f"{checkpoint.label}: "
        raise ModelError(f"{label}{error}") from error
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:  # of shapes that no network has
        raise ModelError(f"{checkpoint.label} has tensors of impossible shapes ({error}).") from error
    if "transformer" in held and not is_converted(checkpoint):
        told = _upscaler_of(checkpoint) or "transformer"
        name = wanted if wanted is not None and wanted in UPSCALERS.values() else told
        held = {name: _as_upscaler(held["transformer"], name)}
    return held


def _preferred(a: Found, b: Found) -> Found | None:
    """Which of two takes the other's place: the Turbo decoder Wan's, safetensors a pickle of the same."""
    for better, other in ((a, b), (b, a)):
        kinds = better.component.config["type"], other.component.config["type"]
        if kinds == ("turbo_decoder", "video_decoder"):
            return better
        paths = better.checkpoint.path, other.checkpoint.path
        same_folder = (
            better.checkpoint.source is other.checkpoint.source and paths[0].parent == paths[1].parent
        )
        if same_folder and paths[1].suffix in ENDINGS and paths[0].suffix not in ENDINGS:
            return better
    return None


def _upscaler_of(checkpoint: Checkpoint) -> str | None:
    """GAIR and FastVideo name the folders 540p_sr, sr_540p and the like."""
    for part in _names(checkpoint):
        for size, name in UPSCALERS.items():
            if "sr" in part and size in part:
                return name
    return None


def _names(checkpoint: Checkpoint) -> list[str]:
    """Of a checkpoint's file and the two folders around it, which say what its tensors cannot."""
    where = PurePosixPath(checkpoint.source.location) / checkpoint.path
    return [part.lower() for part in where.parts[:-4:-1]]


def _as_upscaler(component: Component, name: str) -> Component:
    if name not in UPSCALERS.values():
        return component
    config = component.config | {"coordinates": "v1"}
    if name == "upscaler_1080p" and not config["local_layers"]:
        layers = range(config["num_layers"])
        config["local_layers"] = [i for i in layers if i not in GLOBAL_LAYERS_1080P]
    return Component(config, component.tensors)
