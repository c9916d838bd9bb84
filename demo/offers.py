"""Sizes of the published models: download, disk and memory. Nothing is requested from the Hub."""

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
FREE = 0.9  # of the free disk space: a recommended model takes no more

# The published dimensions: the defaults of every network's config, except for these.
CONFIGS: dict[str, dict[str, Any]] = {
    "transformer": {"type": "transformer"},
    "text_encoder": {"type": "text_encoder"},
    "video_encoder": {"type": "video_encoder", "width": 160},
    "video_decoder": {"type": "turbo_decoder"},
    "audio_vae": {"type": "audio_vae"},
}
# Where the published files differ from converted ones: the base transformer is in bfloat16, the distilled one
# in float32, and neither is padded.
UNPADDED = {"swiglu_size": 13652}
PUBLISHED_DTYPES = {"magihuman-base": "bfloat16", "magihuman-distill": "float32"}
TOKENIZER_BYTES = 34_000_000  # about the size of t5gemma-9b-9b-ul2's tokenizer.json
GATED = ("text_encoder", "audio_vae")


@dataclass(frozen=True)
class Offer:
    """A published model in one precision, with the default components of `download`.

    `fetched` are the bytes to download, `stored` the bytes on disk. `memory` is the planned peak for 5 s at
    448×256 with the longest prompt. `streamed` means that the model fits only with streamed weights; without
    `fits` it does not fit at all."""

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
        """The argument of `download` for this precision."""
        return None if self.bits is None else Quantization(self.bits)


def offers(model: str, machine: Machine | None = None, free: int | None = None) -> list[Offer]:
    """Return a published model in every precision, the smallest first. At most one is recommended, for
    `machine` with `free` bytes of disk; the default is this machine. No weights are allocated."""
    machine = this_machine() if machine is None else machine
    found = [_offer(model, bits, machine) for bits in BITS]
    best = _best(found, free_disk() if free is None else free)
    return [replace(offer, recommended=offer is best) for offer in found]


def licences(model: str) -> dict[str, str]:
    """Return the licence of each repo that a model is downloaded from."""
    return {hub.PUBLISHED[model][part].repo: licence(part)[0] for part in USUAL}


def gated(model: str) -> list[str]:
    """Return the repos whose licence must be accepted before the download."""
    return [hub.PUBLISHED[model][part].repo for part in USUAL if part in GATED]


def free_disk() -> int:
    """Return the free bytes of the disk that models are stored on."""
    folder = home().absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def _best(found: list[Offer], free: int) -> Offer | None:
    """Return the highest precision that fits without streaming, else the smallest one that fits at all."""
    able = [offer for offer in found if offer.fits and offer.stored + SPARE_BYTES <= FREE * free]
    resident = [offer for offer in able if not offer.streamed]
    return resident[-1] if resident else able[0] if able else None


def _offer(model: str, bits: int | None, machine: Machine) -> Offer:
    networks = _networks(bits)
    stored = sum(network.weights.bytes for network in networks.values()) + TOKENIZER_BYTES
    plan = _plan(networks, model, machine)
    return Offer(model, bits, _fetched(model), stored, plan.needed, plan.low_ram, plan.fits)


@cache  # takes a second
def _networks(bits: int | None) -> dict[str, Network]:
    quantization = None if bits is None else Quantization(bits)
    return {component: network(config, quantization) for component, config in CONFIGS.items()}


def network(config: dict[str, Any], quantization: Quantization | None) -> Network:
    """Return a network as `download` stores it."""
    if config["type"] in LARGE:
        config = config | {"dtype": "bfloat16"}
        if quantization is not None:
            config["quantization"], _ = quantization_block(config, quantization)
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
    prompt = "x" * 4 * MAX_TOKENS  # about four characters make a token
    defaults = SAMPLING[model.rpartition("-")[2]] | USUAL_SETTINGS
    request = Request.complete(prompt, {"seed": 0}, defaults)
    inputs = Inputs(picture=True, recording=True, texts=tuple(request.prompts))
    return planner.plan(request, inputs, None)
