"""The reference's whole run, from the prompt to what goes into the file."""

import numpy as np
from helpers.golden_cases import WORK, distance, each, weights_in

from mlx_happyhorse import HappyHorse
from mlx_happyhorse.convert import convert


def model(case, name):
    labels = {"transformer": "transformer=", "upscaler": "upscaler_540p="}
    parts = {part: weights_in(folder) for part, folder in case.setting("weights").items() if folder}
    sources = [f"{labels.get(part, '')}{path}" for part, path in parts.items()]
    distilled = case.setting("guidance_passes") == 1
    out = WORK / name
    convert(sources, out, variant="distill" if distilled else "base", dtype="float32")
    return HappyHorse.load(out)


@each("pipeline")
def test_whole_run(case, request):
    size = case.setting("upscale")
    image = case.get("in.image_rgb")
    clip = model(case, request.node.callspec.id).generate(
        case.settings["prompt"],
        negative_prompt=case.settings["negative_prompt"] if case.setting("guidance_passes") == 2 else None,
        seconds=case.setting("seconds"),
        width=case.setting("width"),
        height=case.setting("height"),
        steps=case.setting("steps"),
        upscale="540p" if size else None,
        upscale_size=tuple(size) or None,
        upscale_steps=case.setting("upscale_steps") or None,
        image=None if image is None else np.array(image),
        draw=case.draw(),
    )
    off = np.abs(clip.video.astype(int) - np.array(case["out.frames"]).astype(int))
    assert (off <= 1).mean() >= 0.999
    assert off.max() <= 3
    assert distance(clip.audio, case["out.audio"]) <= 1e-3
