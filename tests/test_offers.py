"""What published models take, known before the Hub is asked."""

import json
import socket

import mlx.core as mx
import pytest
from helpers import published
from helpers.hub_server import HubServer
from helpers.published import MAGIHUMAN, STABLE_AUDIO, T5GEMMA
from helpers.served import asking

from mlx_happyhorse.convert import Planned, Quantization, download
from mlx_happyhorse.demo.offers import CONFIGS, gated, licences, network, offers
from mlx_happyhorse.planning.hardware import GB, mac
from mlx_happyhorse.storage import hub

TRANSFORMERS = {4: 8.71, 6: 12.54, 8: 16.36, None: 30.70}  # GB, as the README says
DISK = 10**12


def machine(memory):
    return mac("Apple M3 Max", memory * GB, int(0.75 * memory * GB))


@pytest.fixture(scope="module")
def offered():
    return offers("magihuman-distill", machine(64), DISK)


@pytest.mark.parametrize("model", hub.PUBLISHED)
def test_every_published_model_is_offered_without_a_request(model, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    found = offers(model, machine(64), DISK)
    assert [(offer.model, offer.bits) for offer in found] == [(model, bits) for bits in TRANSFORMERS]
    assert mx.get_peak_memory() - before < 1e6
    assert licences(model)[MAGIHUMAN] == "Apache-2.0" and licences(model)[T5GEMMA] == "Gemma Terms of Use"
    assert gated(model) == [T5GEMMA, STABLE_AUDIO]


@pytest.mark.parametrize("bits", TRANSFORMERS)
def test_sizes_are_those_of_converted_models(offered, bits):
    how = None if bits is None else Quantization(bits)
    assert network(CONFIGS["transformer"], how).weights.bytes / GB == pytest.approx(
        TRANSFORMERS[bits], abs=0.005
    )
    rest = [network(config, how).weights.bytes for name, config in CONFIGS.items() if name != "transformer"]
    offer = next(offer for offer in offered if offer.bits == bits)
    assert offer.stored / GB == pytest.approx(TRANSFORMERS[bits] + sum(rest) / GB, abs=0.05)
    assert offer.quantization == how


def test_a_size_is_what_a_download_plans_and_stores(tmp_path):
    published.save_shards(published.transformer(mx.float32, seed=1), tmp_path / MAGIHUMAN / "distill", 13)
    published.write_text_encoder(tmp_path / T5GEMMA)
    plan: list[Planned] = []
    parts, how = ("transformer", "text_encoder"), Quantization(4)
    with HubServer(tmp_path) as server, asking(server, tmp_path / "here"):
        folder = download("magihuman-distill", components=parts, quantization=how, on_plan=plan.extend)
    tokenizer = (folder / "text_encoder/tokenizer.json").stat().st_size
    for planned, beside in zip(plan, (0, tokenizer), strict=True):
        config = json.loads((folder / planned.component / "config.json").read_text())
        plain = {key: config[key] for key in config.keys() - {"quantization", "source", "dtype"}}
        assert network(plain, how).weights.bytes + beside == planned.stored


def test_memory_grows_with_bits_and_less_is_taken_streamed(offered):
    needed = [offer.memory for offer in offered]
    assert needed == sorted(needed)
    for offer, streamed in zip(offered, offers("magihuman-distill", machine(8), DISK), strict=True):
        assert not offer.streamed and streamed.streamed and streamed.fits
        assert streamed.memory < TRANSFORMERS[offer.bits] * GB < offer.memory < offer.stored


@pytest.mark.parametrize(
    ("memory", "free", "bits"),
    [(8, DISK, 4), (16, DISK, 4), (24, DISK, 6), (64, DISK, None), (64, 30 * GB, 6), (64, 18 * GB, 4)],
)
def test_the_finest_that_memory_and_disk_allow_is_recommended(memory, free, bits):
    found = offers("magihuman-distill", machine(memory), free)
    assert [offer.bits for offer in found if offer.recommended] == [bits]


def test_nothing_is_recommended_where_nothing_fits():
    assert not any(offer.recommended for offer in offers("magihuman-distill", machine(64), 5 * GB))
    small = offers("magihuman-distill", machine(2), DISK)
    assert not any(offer.recommended or offer.fits for offer in small)
