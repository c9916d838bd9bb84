"""Collect the components of one model from its sources: identify, choose, and note what is skipped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from mlx_happyhorse.errors import ModelError, RequestError, argument
from mlx_happyhorse.storage.hub import VARIANTS
from mlx_happyhorse.storage.weights import build, check

from ..read.checkpoint import Checkpoint, checkpoints
from ..read.pickles import ENDINGS
from ..read.sources import Source
from .converted import converted, is_converted
from .published import Component, components

# Only these layers of the 1080p upscaler attend to the entire clip; its tensors and settings do not say so.
GLOBAL_LAYERS_1080P = (3, 7, 11, 15, 19, 23, 27, 31)
UPSCALERS = {"540p": "upscaler_540p", "1080p": "upscaler_1080p"}
EXPECTED = (
    "a MagiHuman transformer or Turbo decoder (GAIR's or FastVideo's files), T5-Gemma, the Wan 2.2 VAE, "
    "Stable Audio, or a converted model folder"
)


@dataclass(frozen=True)
class Place:
    """A place to search: the folder `under` in a source, only for `component` if given."""

    source: Source
    under: str = ""
    component: str | None = None

    def __str__(self) -> str:
        return f"{self.source.name}/{self.under}" if self.under else self.source.name


class Found(NamedTuple):
    """A component and the checkpoint that it comes from."""

    component: Component
    checkpoint: Checkpoint


@dataclass
class Collection:
    """Components by name; `notes` list what was skipped and why."""

    variant: str | None = None
    found: dict[str, Found] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, place: Place) -> None:
        """Add all components at a place.

        Raise ModelError if there are none or a checkpoint is damaged, RequestError if two conflict."""
        skipped: list[str] = []
        added = False
        for checkpoint in checkpoints(place.source, place.under):
            components = read(checkpoint, place.component)
            wanted = {n: c for n, c in components.items() if place.component in (None, n)}
            for name, component in wanted.items():
                self._add(name, component, checkpoint)
            added = added or bool(wanted)
            if not wanted:
                content = " and ".join(components) or "no known network"
                skipped.append(f"{checkpoint.label} holds {content}")
        if not added:
            reason = skipped[0] if skipped else "there is no .safetensors, .ckpt or .pth file"
            raise ModelError(
                f"no {place.component or 'known checkpoint'} in {place}: {reason}. Expected: {EXPECTED}."
            )
        self.notes += [f"skipped: {line}" for line in skipped]

    def _add(self, name: str, component: Component, checkpoint: Checkpoint) -> None:
        if name == "transformer" and self._is_other_variant(checkpoint):
            self.notes.append(f"skipped: {checkpoint.label} is not the {self.variant} transformer")
            return
        new = Found(component, checkpoint)
        old = self.found.get(name)
        if old is None:
            self.found[name] = new
        elif kept := _preferred(old, new):
            self.found[name] = kept
            skipped = new if kept is old else old
            self.notes.append(
                f"skipped: the {name} of {skipped.checkpoint.label}, as {kept.checkpoint.label} replaces it"
            )
        else:
            raise RequestError(
                f"{checkpoint.label} and {old.checkpoint.label} both hold the {name}: give only one, "
                f"pass {argument('variant')}, or mark an upscaler as upscaler_540p=PATH."
            )

    def _is_other_variant(self, checkpoint: Checkpoint) -> bool:
        return self.variant is not None and variant_of(checkpoint) not in (None, self.variant)


def collect(places: Iterable[Place], variant: str | None = None) -> Collection:
    """Return the components at all places; of transformers only the `variant`, if given.

    Raise ModelError or RequestError as `Collection.add` does."""
    collection = Collection(variant)
    for place in places:
        collection.add(place)
    return collection


def variant_of(checkpoint: Checkpoint) -> str | None:
    """Return base or distill from the names of the file and its folders; None if they are ambiguous."""
    for name in _names(checkpoint):
        matches = [variant for variant in VARIANTS if re.search(rf"(?<![a-z]){variant}(?![a-z])", name)]
        if matches:
            return matches[0] if len(matches) == 1 else None
    return None


def read(checkpoint: Checkpoint, wanted: str | None = None) -> dict[str, Component]:
    """Return a checkpoint's components by name, with our tensor names and shapes; {} if it is unknown.

    A transformer becomes an upscaler if that is `wanted`, or if its folder is named so. Raise ModelError if
    tensors are missing, unknown or misshapen."""
    try:
        found = converted(checkpoint) if is_converted(checkpoint) else components(checkpoint)
        for component in found.values():
            check(build(component.config), {name: tensor.shape for name, tensor in component.tensors.items()})
    except ModelError as error:
        label = "" if str(error).startswith(checkpoint.label) else f"{checkpoint.label}: "
        raise ModelError(f"{label}{error}") from error
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:  # derived from absurd shapes
        raise ModelError(f"{checkpoint.label} has tensors of impossible shapes ({error}).") from error
    if "transformer" in found and not is_converted(checkpoint):
        detected = _upscaler_of(checkpoint) or "transformer"
        name = wanted if wanted is not None and wanted in UPSCALERS.values() else detected
        found = {name: _as_upscaler(found["transformer"], name)}
    return found


def _preferred(a: Found, b: Found) -> Found | None:
    """Return which of two replaces the other, or None: the Turbo decoder replaces Wan's, and safetensors
    replace a pickle in the same folder."""
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
    """Return the upscaler that a folder is named for: GAIR and FastVideo use 540p_sr, sr_540p and such."""
    for part in _names(checkpoint):
        for size, name in UPSCALERS.items():
            if "sr" in part and size in part:
                return name
    return None


def _names(checkpoint: Checkpoint) -> list[str]:
    """Return the lower-case names of a checkpoint's file and two parent folders, innermost first."""
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
