"""What the published models take, without asking the Hub: bytes to fetch, on the disk and in memory."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from mlx_happyhorse.convert.download import USUAL
from mlx_happyhorse.convert.write.card import SAMPLING, licence
from mlx_happyhorse.convert.write.card import USUAL as USUAL_SETTINGS
from mlx_happyhorse.convert.write.job import SPARE_BYTES
from mlx_happyhorse.convert.write.quantization import Quantization, quantization_block
from mlx_happyhorse.files import home
from mlx_happyhorse.inputs.prompts import MAX_TOKENS
from mlx_happyhorse.inputs.request import Request
from mlx_happyhorse.planning.hardware import Machine, this_machine
from mlx_happyhorse.planning.plan import Inputs, Plan
from mlx_happyhorse.planning.planner import Network, Planner
from mlx_happyhorse.storage import hub
from mlx_happyhorse.storage.dtypes import LARGE
from mlx_happyhorse.storage.weights import footprint

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
GATED = ("text_encoder", "audio_vae")


@dataclass(frozen=True)
class Offer:
    """A published model in one precision, with the components that `download` takes by itself.

    `fetched` are the bytes that come over the network, `stored` those that stay on the disk. `memory` is the
    planned peak of 5 s at 448×256 with the longest prompt; with `streamed` the weights are read anew for
    every step, as they do not fit otherwise, and without `fits` not even then."""

    model: str
    bits: int | None
    fetched: int
    stored: int
    memory: int
    streamed: bool
    fits: bool
    recommended: bool = False

    @property
    def quantization(self) -> Quantization | None:
        """What `download` is to be given for it."""
        return None if self.bits is None else Quantization(self.bits)


def offers(model: str, machine: Machine | None = None, free: int | None = None) -> list[Offer]:
    """Return a published model in every precision, the smallest first; at most one is recommended for
    `machine` with `free` bytes of disk, by default this one. Nothing is asked of the Hub, and no weights are
    allocated."""
    machine = this_machine() if machine is None else machine
    found = [_offer(model, bits, machine) for bits in BITS]
    best = _best(found, free_disk() if free is None else free)
    return [replace(offer, recommended=offer is best) for offer in found]


def licences(model: str) -> dict[str, str]:
    """By repo, the licence of what is fetched from it."""
    return {hub.PUBLISHED[model][part].repo: licence(part)[0] for part in USUAL}


def gated(model: str) -> list[str]:
    """The repos whose licence must be accepted first."""
    return [hub.PUBLISHED[model][part].repo for part in USUAL if part in GATED]


def free_disk() -> int:
    """Bytes that are free where downloaded models are kept."""
    folder = home().absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def _best(found: list[Offer], free: int) -> Offer | None:
    """The finest precision that stays in memory, else the one that takes least."""
    able = [offer for offer in found if offer.fits and offer.stored + SPARE_BYTES <= FREE * free]
    resident = [offer for offer in able if not offer.streamed]
    return resident[-1] if resident else able[0] if able else None


def _offer(model: str, bits: int | None, machine: Machine) -> Offer:
    networks = _networks(bits)
    stored = sum(network.weights.bytes for network in networks.values()) + TOKENIZER_BYTES
    plan = _plan(networks, model, machine)
    return Offer(model, bits, _fetched(model), stored, plan.needed, plan.low_ram, plan.fits)


@cache  # a second's work, and always the same
def _networks(bits: int | None) -> dict[str, Network]:
    how = None if bits is None else Quantization(bits)
    return {component: network(config, how) for component, config in CONFIGS.items()}


def network(config: dict[str, Any], how: Quantization | None) -> Network:
    """As `download` would store it."""
    if config["type"] in LARGE:
        config = config | {"dtype": "bfloat16"}
        if how is not None:
            config["quantization"], _ = quantization_block(config, how)
    return Network(config, footprint(config))


@cache
def _fetched(model: str) -> int:
    published = {"dtype": PUBLISHED_DTYPES[model]} | UNPADDED
    dtypes: dict[str, dict[str, Any]] = {"transformer": published, "text_encoder": {"dtype": "bfloat16"}}
    used = (footprint(config | dtypes.get(component, {})) for component, config in CONFIGS.items())
    return sum(weights.bytes for weights in used) + TOKENIZER_BYTES


def _plan(networks: dict[str, Network], model: str, machine: Machine) -> Plan:
    planner = Planner(Path(), None, machine)
    planner.networks |= networks
    prompt = "x" * 4 * MAX_TOKENS
    defaults = SAMPLING[model.rpartition("-")[2]] | USUAL_SETTINGS
    request = Request.complete(prompt, {"seed": 0}, defaults)
    inputs = Inputs(picture=True, recording=True, texts=tuple(request.prompts))
    return planner.plan(request, inputs, None)
