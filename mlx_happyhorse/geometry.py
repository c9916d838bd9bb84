"""Pixels ↔ latents ↔ tokens ↔ samples: the sizes of a clip, and the rates that all clips share.

The video VAE turns 16×16 pixels into one latent, the first frame into one latent frame and every four later
ones into another; the transformer packs 2×2 latents into a token. The audio VAE makes 25 latents a second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

FPS = 25  # frames, and audio latents, a second
SAMPLE_RATE = 44_100  # Hz, of the clip's sound
MODEL_RATE = 51_200  # Hz, of the audio VAE
SAMPLES_PER_LATENT = MODEL_RATE // FPS
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
CELL = 16  # pixels of a latent's side
PATCH = 2  # latents of a token's side
GRID = CELL * PATCH  # pixels of a token's side: sizes are multiples of it
CHUNK = 4  # frames of a latent frame after the first


def pixel_frames(latent_frames: int) -> int:
    """Return how many frames so many latent frames decode to."""
    return CHUNK * (latent_frames - 1) + 1


def seconds_to_hold(samples: int, rate: int) -> float:
    """Return the length of the shortest clip that is as long as a recording, in seconds.

    Clips have 4n + 1 frames; the division rounds up, in integers."""
    later_frames = -(-(samples * FPS - rate) // (CHUNK * rate)) * CHUNK
    return max(later_frames, 0) / FPS


@dataclass(frozen=True)
class Geometry:
    """The sizes of one clip: `width` and `height` in pixels, and its length in audio latents."""

    width: int
    height: int
    audio_latents: int

    @classmethod
    def of(cls, width: int, height: int, seconds: float) -> Self:
        return cls(width, height, round(seconds * FPS) + 1)

    @classmethod
    def of_latents(cls, video: tuple[int, ...], audio_latents: int) -> Self:
        """The inverse: from the shape of video latents (frames, rows, columns, …)."""
        return cls(video[2] * CELL, video[1] * CELL, audio_latents)

    def resized(self, size: tuple[int, int]) -> Geometry:
        """Return the same length at another (width, height)."""
        return replace(self, width=size[0], height=size[1])

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    @property
    def seconds(self) -> float:
        return (self.audio_latents - 1) / FPS

    @property
    def latent_frames(self) -> int:
        return (self.audio_latents - 1) // CHUNK + 1

    @property
    def frames(self) -> int:
        return pixel_frames(self.latent_frames)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of latents."""
        return self.height // CELL, self.width // CELL

    @property
    def video_shape(self) -> tuple[int, int, int]:
        """Latents (frames, rows, columns), without channels."""
        return (self.latent_frames, *self.grid)

    @property
    def video_tokens(self) -> int:
        frames, rows, columns = self.video_shape
        return frames * (rows // PATCH) * (columns // PATCH)

    @property
    def pixels(self) -> int:
        """Pixels of all frames together."""
        return self.frames * self.width * self.height
