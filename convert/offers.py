"""What the published models take, without asking the Hub: bytes to fetch, on the disk and in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from mlx_happyhorse import hub
from mlx_happyhorse.machine import Machine, this_machine
from mlx_happyhorse.plan import Inputs, Network, Planner
from mlx_happyhorse.prompts import MAX_TOKENS
from mlx_happyhorse.request import Request
from mlx_happyhorse.weights import build, parameters, sizes

from .card import SAMPLING, licence
from .card import USUAL as USUAL_SETTINGS
from .download import USUAL
from .job import SPARE_BYTES
from .networks import Component
from .precision import Quantization, prepare
from .tensors import Tensor

BITS = (4, 6, 8, None)  # None is bfloat16
FREE = 0.9  # of the disk's free bytes may be taken by what is recommended

# The published dimensions: the defaults of every network's config, but for these.
CONFIGS: dict[str, dict[str, Any]] = {
    "transformer": {"type": "transformer"},
    "text_encoder": {"type": "text_encoder"},
    "video_encoder": {"type": "video_encoder", "width": 160},
    "video_decoder": {"type": "turbo_decoder"},
    "audio_vae": {"type": "audio_vae"},
}
# As they are published where that is not as they are stored in 16 bits: the base transformer is in bfloat16,
# the distilled one in float32, and neither is padded.
UNPADDED = {"swiglu_size": 13652}
PUBLISHED_DTYPES = {"magihuman-base": "bfloat16", "magihuman-distill": "float32"}
TOKENIZER_BYTES = 34_000_000  # t5gemma-9b-9b-ul2's tokenizer.json, about
GATED = ("google/t5gemma-9b-9b-ul2", "stabilityai/stable-audio-open-1.0")


@dataclass(frozen=True)
class Offer:
    """A published model in one precision, with the components that `download` takes by itself.

    `memory_bytes` are the planned peak of 5 s at 448×256 with the longest prompt, `streamed_bytes` the same
    with the weights read anew for every step. `licences` are names with addresses."""

    model: str
    label: str
    bits: int | None
    fetched_bytes: int
    stored_bytes: int
    memory_bytes: int
    streamed_bytes: int
    licences: tuple[tuple[str, str], ...]
    gated_repos: tuple[str, ...]
    recommended: bool = False

    @property
    def quantization(self) -> Quantization | None:
        """What `download` is to be given for it."""
        return None if self.bits is None else Quantization(self.bits)


def offers(machine: Machine | None = None, free: int | None = None) -> list[Offer]:
    """Return every published model in every precision; at most one is recommended for `machine` with `free`
    bytes of disk, by default this one. Nothing is asked of the Hub, and no weights are allocated."""
    machine = this_machine() if machine is None else machine
    free = free_disk() if free is None else free
    found = [offer for bits in BITS for offer in _in_precision(bits, machine)]
    found.sort(key=lambda offer: offer.model, reverse=True)  # the distilled one is four times as fast
    best = _best(found, machine, free)
    return [replace(offer, recommended=offer is best) for offer in found]


def fits(offer: Offer, machine: Machine) -> bool:
    """Whether a clip of 5 s at 448×256 can be made, at worst with streamed weights."""
    return offer.streamed_bytes <= machine.usable


def free_disk() -> int:
    """Bytes that are free where downloaded models are kept."""
    folder = hub.home().absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _best(found: list[Offer], machine: Machine, free: int) -> Offer | None:
    """The distilled model in the finest precision that stays in memory, else the one that takes least."""
    able = [
        offer
        for offer in found
        if offer.model == "magihuman-distill"
        and fits(offer, machine)
        and offer.stored_bytes + SPARE_BYTES <= FREE * free
    ]
    resident = [offer for offer in able if offer.memory_bytes <= machine.usable]
    if resident:
        return max(resident, key=lambda offer: offer.stored_bytes)
    return min(able, key=lambda offer: offer.stored_bytes, default=None)


def _in_precision(bits: int | None, machine: Machine) -> Iterator[Offer]:
    networks = _networks(bits)
    stored = sum(network.bytes for network in networks.values()) + TOKENIZER_BYTES
    for model, places in hub.PUBLISHED.items():
        repos = {places[component].repo for component in USUAL}
        yield Offer(
            model=model,
            label="bf16" if bits is None else f"{bits} bits",
            bits=bits,
            fetched_bytes=_fetched(model),
            stored_bytes=stored,
            memory_bytes=_peak(networks, model, machine, low_ram=False),
            streamed_bytes=_peak(networks, model, machine, low_ram=True),
            licences=tuple(dict.fromkeys(licence(component) for component in USUAL)),
            gated_repos=tuple(repo for repo in GATED if repo in repos),
        )


@cache  # a second's work, and always the same
def _networks(bits: int | None) -> dict[str, Network]:
    how = None if bits is None else Quantization(bits)
    return {component: network(config, how) for component, config in CONFIGS.items()}


def network(config: dict[str, Any], how: Quantization | None) -> Network:
    """As `download` would store it."""
    # Nobody reads them: of tensors that are to be stored only shapes and dtypes matter here.
    tensors = cast(dict[str, Tensor], parameters(build(config)))
    stored = prepare(Component(config, tensors), "bfloat16", how).config
    return Network(stored, sizes(stored))


@cache
def _fetched(model: str) -> int:
    published = {"dtype": PUBLISHED_DTYPES[model]} | UNPADDED
    dtypes: dict[str, dict[str, Any]] = {"transformer": published, "text_encoder": {"dtype": "bfloat16"}}
    used = (sizes(config | dtypes.get(component, {})) for component, config in CONFIGS.items())
    return sum(sum(tensors.values()) for tensors in used) + TOKENIZER_BYTES


def _peak(networks: dict[str, Network], model: str, machine: Machine, low_ram: bool) -> int:
    planner = Planner(Path(), None, machine)
    planner.networks |= networks
    defaults = SAMPLING[model.rpartition("-")[2]] | USUAL_SETTINGS
    prompt = "x" * 4 * MAX_TOKENS
    request = Request.complete(prompt, {"seed": 0}, defaults)
    texts = (prompt, *request.avoided.values())
    return planner.plan(request, Inputs(texts=texts), low_ram).needed
