from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from .terminal import printable, size

if TYPE_CHECKING:
    from ..storage.inventory import Network

# Of a network's config, what a person wants to know.
DIMENSIONS = {
    "num_layers": "layers",
    "num_hidden_layers": "layers",
    "hidden_size": "wide",
    "num_heads": "heads",
    "num_attention_heads": "heads",
    "vocab_size": "tokens",
    "widths": "wide",
    "width": "wide",
    "channels": "wide",
}


OF_CLIPS = (".mp4", ".json", ".latents.safetensors")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", help="a clip or its JSON file; a model: name, Hub repo or folder; a checkpoint"
    )


def run(options: argparse.Namespace) -> None:
    """show what a clip was made of, or what a model or checkpoint holds"""
    path = Path(options.what).expanduser()
    if path.name.endswith(OF_CLIPS) and not path.is_dir():
        _show_clip(path)
    elif path.exists() and not _is_model(path):
        _show_checkpoint(path)
    else:
        _show_model(options.what)


def _is_model(path: Path) -> bool:
    from ..storage import hub

    try:
        hub.describe(path)
    except RequestError:
        return False
    return True


def _show_clip(path: Path) -> None:
    from ..outputs import metadata

    settings = metadata.read(path)
    prompt = str(settings.pop("prompt", ""))
    for name, value in settings.items():
        if name not in ("made_with", "format") and value is not None:
            print(printable(f"{name.replace('_', ' '):<18}{_plain(value)}"))
    print(f"prompt\n{printable(prompt)}")


def _show_model(model: str) -> None:
    from ..storage import hub, inventory

    folder = hub.find(model)
    config = hub.describe(folder)
    print(printable(f"{folder}: {config.get('family', '')} {config['variant']}"))
    print(printable(_plain(config["sampling"])))
    networks = inventory.networks(folder)
    _show_networks(networks)
    if missing := set(config["components"]) - {network.name for network in networks}:
        print(printable(f"not on this machine yet: {', '.join(sorted(missing))}"))
    if networks:
        largest = max(networks, key=lambda network: network.bytes)
        weights = f"{size(largest.bytes)} for the {largest.name}'s weights"
        print(f"memory: one network at a time, {weights}, and its work")


def _show_checkpoint(path: Path) -> None:
    from ..convert import inspect

    networks, notes = inspect(path)
    _show_networks(networks)
    for note in notes:
        print(printable(note))


def _show_networks(networks: list[Network]) -> None:
    for network in networks:
        config = network.config
        dimensions = ", ".join(f"{_plain(config[k])} {what}" for k, what in DIMENSIONS.items() if k in config)
        amounts = f"{network.parameters / 1e6:>10,.1f} M parameters, {network.bits:>4.1f} bits each"
        source = config.get("source")
        where = source.get("repo", source.get("folder")) if isinstance(source, dict) else None
        origin = f", from {where}" if where else ""
        print(printable(f"{network.name:<15} {amounts}, {size(network.bytes):>8}: {dimensions}{origin}"))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return "-".join(map(str, value))
    return str(value)
