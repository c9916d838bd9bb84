from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from .terminal import printable, size

if TYPE_CHECKING:
    from ..storage.inventory import Network

# The dimensions that are shown, by their key in a network's config.
DIMENSIONS = {
    "num_layers": "{} layers",
    "num_hidden_layers": "{} layers",
    "hidden_size": "hidden size {}",
    "num_heads": "{} heads",
    "num_attention_heads": "{} heads",
    "vocab_size": "{} tokens",
    "widths": "channels {}",
    "width": "{} channels",
    "channels": "{} channels",
}
CLIP_ENDINGS = (".mp4", ".json", ".latents.safetensors")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", help="a clip or its JSON file; a model's name, Hub repo or folder; or a checkpoint"
    )


def run(options: argparse.Namespace) -> None:
    """show the settings of a clip, or the networks in a model or checkpoint"""
    path = Path(options.what).expanduser()
    if path.name.endswith(CLIP_ENDINGS) and not path.is_dir():
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
        print(printable(f"not downloaded yet: {', '.join(sorted(missing))}"))
    if networks:
        largest = max(networks, key=lambda network: network.bytes)
        weights = f"at most {size(largest.bytes)} of weights ({largest.name})"
        print(f"memory: one network is loaded at a time, {weights}, plus activations")


def _show_checkpoint(path: Path) -> None:
    from ..convert import inspect

    networks, notes = inspect(path)
    _show_networks(networks)
    for note in notes:
        print(printable(note))


def _show_networks(networks: list[Network]) -> None:
    for network in networks:
        config = network.config
        dimensions = ", ".join(
            text.format(_plain(config[k])) for k, text in DIMENSIONS.items() if k in config
        )
        amounts = f"{network.parameters / 1e6:>10,.1f} M parameters, {network.bits:>4.1f} bits each"
        source = config.get("source")
        where = source.get("repo", source.get("folder")) if isinstance(source, dict) else None
        origin = f", from {where}" if where else ""
        print(printable(f"{network.name:<15} {amounts}, {size(network.bytes):>8}: {dimensions}{origin}"))


def _plain(value: Any) -> str:
    """Return a setting's value as text: "a 1, b 2" for a dict, "1-2-3" for a list."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return "-".join(map(str, value))
    return str(value)
