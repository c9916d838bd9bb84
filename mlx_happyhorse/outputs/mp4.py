"""Frames and audio → an mp4 file."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..errors import HappyHorseError, RequestError
from ..files import expanded, rename_without_replacing, temporary_beside
from ..geometry import FPS, SAMPLE_RATE

LONGEST_NAME = 200  # bytes: disks allow 255, and the files beside it have longer endings and numbers
# Visually lossless, and deterministic: the same frames give the same bytes on every CPU.
H264 = {"crf": "17", "preset": "medium", "x264-params": "cpu-independent=1"}
# The index in front; audio, which is muxed first, is interleaved with the frames that it belongs to.
MP4 = {"movflags": "+faststart", "max_interleave_delta": "0"}


class Mp4Writer:
    """Encodes frames as they come, to a hidden file until `save` gives it its name.

    H.264 and AAC with the index in front; `sound` is (samples, 2) float32 at 44,100 Hz, `settings` go into
    the file's comment as JSON. Raise RequestError for a name that cannot be used, HappyHorseError where
    writing fails."""

    def __init__(self, path: str | Path, sound: np.ndarray, settings: dict[str, Any]):
        self.path, self.sound = check_output(path), sound
        self.shape = (0, 0, 0)  # frames, height, width
        self._open = ExitStack()
        with self._writing():
            self.beside = self._open.enter_context(temporary_beside(self.path))
            self.file = av.open(str(self.beside), "w", format="mp4", options=MP4)
            self.file.metadata["comment"] = json.dumps(settings, ensure_ascii=False)
            self.video = self.file.add_stream("libx264", rate=FPS, options=H264)
            self.audio = self.file.add_stream("aac", rate=SAMPLE_RATE, layout="stereo")
            self.audio.bit_rate = 192_000

    def add(self, frames: np.ndarray) -> None:
        """Encode the next frames (n, height, width, 3), uint8."""
        with self._writing():
            if not self.shape[0]:
                self._begin(*frames.shape[1:3])
            for picture in frames:
                self.file.mux(self.video.encode(_video_frame(picture)))
            self.shape = self.shape[0] + len(frames), *self.shape[1:]

    def _begin(self, height: int, width: int) -> None:
        self.shape = 0, height, width
        self.video.height, self.video.width = height, width
        self.video.pix_fmt = "yuv420p"
        _tag_as_bt709(self.video)
        self.file.mux(_encode_sound(self.audio, self.sound))

    def save(self, overwrite: bool = True) -> Path:
        """Complete the file and rename it; without `overwrite`, the name gets a number where it is taken."""
        with self._writing():
            self.file.mux(self.video.encode(None))
            self.file.close()
            if overwrite:
                return self.beside.replace(self.path)
            return rename_without_replacing(self.beside, self.path)

    @property
    def pixels(self) -> int:
        """Return the pixels of all frames together."""
        return math.prod(self.shape)

    def discard(self) -> None:
        """Close the file, and remove it unless it was saved."""
        with suppress(OSError, av.FFmpegError):
            self.file.close()
        self._open.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            raise HappyHorseError(f"{self.path} could not be written: {error.strerror or error}.") from error


def check_output(path: str | Path) -> Path:
    """Return the path, or raise RequestError if no clip can be saved there."""
    path = expanded(path)
    if path.suffix.lower() != ".mp4":
        raise RequestError(f"{path} has no video ending: choose a name that ends in .mp4.")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise RequestError(f"{path.name[:40]}… is too long for a file's name: choose a shorter one.")
    try:
        if path.is_dir():
            raise RequestError(f"{path} is a folder: choose another name.")
        if not path.parent.is_dir():
            raise RequestError(f"the folder {path.parent} does not exist: make it, or choose another.")
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}. Choose another place.") from error


def _tag_as_bt709(video: Any) -> None:
    context = video.codec_context
    context.color_range = av.video.reformatter.ColorRange.MPEG
    context.colorspace = context.color_primaries = context.color_trc = 1


def _video_frame(picture: np.ndarray) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")


def _encode_sound(audio: Any, sound: np.ndarray) -> list[av.Packet]:
    planes = np.ascontiguousarray(np.clip(sound, -1, 1).T, np.float32)
    frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
    return [*audio.encode(frame), *audio.encode(None)]
