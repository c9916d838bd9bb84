"""Describe a model folder: its top config.json, and README.md as the Hub's model card."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from mlx_happyhorse.storage.hub import COMPONENTS
from mlx_happyhorse.storage.weights import read_json
from mlx_happyhorse.version import __version__

REPORT = "quantization.json"
SAMPLING: dict[str, dict[str, Any]] = {
    "base": {"steps": 32, "guidance": 5.0},
    "distill": {"steps": 8, "guidance": 1},
}
USUAL = {"seconds": 5, "width": 448, "height": 256, "upscale_steps": 5}
LICENCES = {
    "text_encoder": ("Gemma Terms of Use", "https://ai.google.dev/gemma/terms"),
    "audio_vae": (
        "Stability AI Community License",
        "https://huggingface.co/stabilityai/stable-audio-open-1.0/blob/main/LICENSE.md",
    ),
}
FAMILIES = {"magihuman": "daVinci-MagiHuman"}
APACHE = ("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")


def licence(component: str) -> tuple[str, str]:
    """Return the name and URL of the licence of a component's weights."""
    return LICENCES.get(component, APACHE)


def top_config(folder: Path, variant: str, before: dict[str, Any]) -> dict[str, Any]:
    """Return the top config.json for the components in a folder; `before` is the existing one, or {}."""
    names = [name for name in COMPONENTS if (folder / name / "config.json").is_file()]
    configs = {name: read_json(folder / name / "config.json") for name in names}
    return {
        "family": "magihuman",
        "sampling": SAMPLING[variant] | USUAL,
        **before,
        "variant": variant,
        "components": sorted(names),
        "sources": {name: config.get("source", {}) for name, config in configs.items()},
        "licences": {name: licence(name)[0] for name in names},
        "converter": __version__,
    }


def card(folder: Path, name: str, config: dict[str, Any]) -> str:
    """Return the model card of a folder with the top config `config`."""
    parts = "\n".join(_row(folder, component, config) for component in config["components"])
    family = FAMILIES.get(config["family"], config["family"])
    restricted = [licence(c) for c in config["components"] if c in LICENCES]
    terms = "".join(f"- {title}: {url}\n" for title, url in restricted)
    return f"""---
library_name: mlx
license: {"other" if restricted else "apache-2.0"}
pipeline_tag: text-to-video
tags: [mlx, text-to-video, text-to-audio]
---

# {name}

Video with sound from a prompt, for Macs with Apple silicon: {family} ({config["variant"]}) for
[MLX](https://github.com/ml-explore/mlx), converted by mlx_happyhorse {config["converter"]}.

```sh
happyhorse generate "A red ball bounces." --model {name} -o ball.mp4
```

| part | from | stored as | licence |
|---|---|---|---|
{parts}

{f"Whoever uses or passes these weights on is bound by:{chr(10)}{terms}" if restricted else ""}
{_fidelity(folder, config["components"])}"""


def _row(folder: Path, component: str, config: dict[str, Any]) -> str:
    own = read_json(folder / component / "config.json")
    quantization = own.get("quantization")
    stored = own.get("dtype", "float32") if quantization is None else _described(quantization)
    source = config["sources"].get(component, {})
    where = source.get("repo") or source.get("folder", "")
    revision = f" @ {source['revision'][:12]}" if "revision" in source else ""
    return f"| {component} | {where}{revision} | {stored} | {licence(component)[0]} |"


def _described(quantization: dict[str, Any]) -> str:
    bits = {quantization["bits"]} | {v["bits"] for v in quantization.values() if isinstance(v, dict)}
    return f"{quantization['mode']}, {' and '.join(map(str, sorted(bits)))} bits"


def _fidelity(folder: Path, components: list[str]) -> str:
    """Return a table with one row per kind of quantized matrix, from the reports beside the weights."""
    rows: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for component in components:
        report = folder / component / REPORT
        for path, one in (read_json(report) if report.is_file() else {}).items():
            stored = f"{one['mode']} {one['bits']} bits, groups of {one['group_size']}"
            rows[component, re.sub(r"\d+", "*", path), stored].append(one)
    if not rows:
        return ""
    lines = []
    for (component, kind, stored), ones in rows.items():
        errors = " | ".join(_span(ones, key) for key in ("weight_error", "output_error"))
        lines.append(f"| {component} | {kind} (×{len(ones)}) | {stored} | {errors} |")
    return f"""## What quantization changed

Relative errors of the matrices, and of their products with random activations, least to greatest, from up to
256 rows of each; every one by itself is in `{REPORT}` beside the weights.

| part | matrices | stored as | weight | output |
|---|---|---|---|---|
{chr(10).join(lines)}
"""


def _span(ones: list[dict[str, Any]], key: str) -> str:
    values = [one[key] for one in ones]
    return f"{min(values):.4f} to {max(values):.4f}"
