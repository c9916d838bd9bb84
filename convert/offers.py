"""What can be downloaded, and what it takes: known from the published dimensions, before anything is asked of
the Hub."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_happyhorse import hub, weights
from mlx_happyhorse.machine import Machine, this_machine
from mlx_happyhorse.plan import Inputs, Network, Planner
from mlx_happyhorse.request import Request, Settings

from .card import SAMPLING, USUAL, licence
from .download import USUAL as COMPONENTS
from .precision import Quantization, quantization_block

PROMPT = "x" * 1200  # letters, as a prompt of 200 words has
# The networks as published; what is left out are the networks' own defaults.
NETWORKS: dict[str, dict[str, Any]] = {
    "transformer": {"type": "transformer"},
    "text_encoder": {"type": "text_encoder"},
    "video_encoder": {"type": "video_encoder", "width": 160},
    "video_decoder": {"type": "turbo_decoder"},
    "audio_vae": {"type": "audio_vae"},
}
LARGE = ("transformer", "text_encoder")
SOURCE_BYTES = {"base": 2, "distill": 4}  # of a transformer's parameters, as published
GATED = ("text_encoder", "audio_vae")
BITS = (4, 6, 8, None)


@dataclass(frozen=True)
class Offer:
    """A published model in a precision; `bits` None is bfloat16. `fetched` are the bytes that come over the
    network and `stored` those that stay on the disk; `memory` is the peak of a clip of 5 s at 448×256, whose
    weights are streamed if they do not fit otherwise."""

    model: str
    bits: int | None
    fetched: int
    stored: int
    memory: int
    streamed: bool
    fits: bool
    recommended: bool

    @property
    def quantization(self) -> Quantization | None:
        return None if self.bits is None else Quantization(self.bits)


def offers(model: str, machine: Machine | None = None) -> list[Offer]:
    """The precisions of a published model, the smallest first, and which of them suits the machine best: the
    most exact that stays in memory and has room on the disk, else the smallest."""
    machine = machine or this_machine()
    found = [_offer(model, bits, machine) for bits in BITS]
    good = [offer for offer in found if offer.fits and not offer.streamed and offer.stored < free_disk()]
    best = max(good, key=lambda offer: offer.stored, default=found[0])
    return [Offer(**vars(offer) | {"recommended": offer is best}) for offer in found]


def licences(model: str) -> dict[str, str]:
    """By repo, the licence of what is fetched from it."""
    return {where.repo: licence(part)[0] for part, where in _parts(model).items()}


def gated(model: str) -> list[str]:
    """The repos whose licence must be accepted first."""
    return [where.repo for part, where in _parts(model).items() if part in GATED]


def free_disk() -> int:
    """Bytes that are free where models are kept."""
    folder = hub.home()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def _parts(model: str) -> dict[str, hub.Published]:
    return {part: where for part, where in hub.PUBLISHED[model].items() if part in COMPONENTS}


def _offer(model: str, bits: int | None, machine: Machine) -> Offer:
    variant = model.rpartition("-")[2]
    networks = {name: _network(name, bits) for name in NETWORKS}
    fetched = sum(_parameters(name) * _source_bytes(name, variant) for name in NETWORKS)
    request = Request.complete(PROMPT, Settings(), SAMPLING[variant] | USUAL)
    planner = Planner(Path(), None, machine)
    planner.networks = networks
    texts = (request.prompt, *request.avoided.values())
    plan = planner.plan(request, Inputs(picture=True, recording=True, texts=texts), None)
    stored = sum(network.bytes for network in networks.values())
    return Offer(model, bits, fetched, stored, plan.needed, plan.low_ram, plan.fits, False)


def _network(name: str, bits: int | None) -> Network:
    config = NETWORKS[name] | ({"dtype": "bfloat16"} if name in LARGE else {})
    if bits is not None and name in LARGE:
        config["quantization"], _ = quantization_block(config, Quantization(bits))
    return Network(config, weights.sizes(config))


def _parameters(name: str) -> int:
    model = weights.build(NETWORKS[name])
    return sum(tensor.size for tensor in weights.parameters(model).values())


def _source_bytes(name: str, variant: str) -> int:
    if name == "transformer":
        return SOURCE_BYTES[variant]
    return 2 if name == "text_encoder" else 4
