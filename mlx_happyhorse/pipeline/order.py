"""A request with all that it is given: gathered and checked once, for `plan`, `stream` and `finish` alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ..inputs.recording import Recording
from ..inputs.request import Request
from ..outputs.latents import Latents
from ..planning.plan import Inputs
from ..planning.stage import StageName

DECODING = ["video_decoder", "audio_vae"]


@dataclass(frozen=True)
class Order:
    """`begin` is "text", or "upscale" or "sound" for a run that starts from `latents`. `sources` say in the
    clip's metadata where picture and recording came from."""

    request: Request
    begin: StageName = StageName.TEXT
    picture: Image.Image | None = None
    recording: Recording | None = None
    latents: Latents | None = None
    sources: dict[str, Any] = field(default_factory=dict)
    keep_frames: bool = True

    @property
    def inputs(self) -> Inputs:
        """The inputs that a plan depends on, without the prompts that must be encoded."""
        if self.latents is None:
            picture, recording = self.picture is not None, self.recording is not None
        else:
            picture, recording = self.latents.picture is not None, self.latents.soundtrack is not None
        return Inputs(picture, recording, begin=self.begin, keep_frames=self.keep_frames)

    @property
    def components(self) -> list[str]:
        """The components of the model that the run loads."""
        if self.begin == StageName.SOUND:
            return DECODING
        names = ["text_encoder", "transformer", *DECODING]
        if self.inputs.picture:
            names.append("video_encoder")
        if self.request.upscale is not None:
            names.append(f"upscaler_{self.request.upscale}")
        return names
