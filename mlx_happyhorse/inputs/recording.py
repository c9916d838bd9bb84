"""A recording as audio input: read once, as input of the audio VAE and as the clip's soundtrack."""

from __future__ import annotations

import hashlib
import wave
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import numpy as np

from ..errors import RequestError
from ..files import expanded
from ..geometry import FPS, MODEL_RATE, SAMPLE_RATE, SAMPLES_PER_FRAME, SAMPLES_PER_LATENT, seconds_to_hold
from ..notes import note

MAX_SECONDS = 60  # of a clip; nothing beyond is read
MIN_SECONDS = 0.1
UNKNOWN_BYTES = 2**31 - 2**16  # in the header of WAV files whose length was not known at their start
RATES = range(1_000, 800_000)  # Hz, of any real recording
DEMUXERS = (
    "wav,w64,aiff,caf,flac,ogg,mp3,aac,mov,mp4,m4a,matroska,webm"  # no playlists, which name other files
)

AudioInput = str | Path | tuple[np.ndarray, int]


@dataclass
class Recording:
    """A recording in both forms: `voice` (n,) float32 at 51,200 Hz for the model, `sound` (m, 2) float32 at
    44,100 Hz for the clip. Both are at most `MAX_SECONDS` long; `longer` tells that they were cut."""

    voice: np.ndarray
    sound: np.ndarray
    longer: bool

    @property
    def seconds(self) -> float:
        return len(self.voice) / MODEL_RATE

    @property
    def clip_seconds(self) -> float:
        """Return the length of the shortest clip that holds all of it. Raise RequestError if it was cut."""
        if self.longer:
            raise RequestError(
                f"the recording is longer than {MAX_SECONDS:.0f} s: cut it, or give seconds to use its start."
            )
        return seconds_to_hold(len(self.voice), MODEL_RATE)

    def samples(self, latents: int) -> np.ndarray:
        """Return the audio encoder's input for so many latents, (latents · 2048, 2), padded with silence."""
        return np.repeat(_fit(self.voice[:, None], latents * SAMPLES_PER_LATENT), 2, axis=1)

    def soundtrack(self, frames: int) -> np.ndarray:
        """Return the audio of a clip of so many frames, (frames · 1764, 2), padded with silence."""
        return _fit(self.sound, frames * SAMPLES_PER_FRAME)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.voice.tobytes()).hexdigest()[:16]


def open_recording(sound: AudioInput) -> Recording:
    """Read a file (wav, flac, ogg, mp3, m4a …), or (samples, sample_rate): (n,) or (n, 2), float, int16 or
    int32, and Hz.

    Raise RequestError if that is impossible; note silence and a file that ends early."""
    if isinstance(sound, str | Path):
        name, frames = str(sound), _from_file(expanded(sound))
    else:
        name, frames = "the recording", _from_samples(sound)
    try:
        recording = _read(frames)
    except (av.FFmpegError, LookupError) as error:
        raise RequestError(f"{name} is not a recording, or it is damaged: save it as wav.") from error
    except OSError as error:
        raise RequestError(f"the recording {name} cannot be opened: {error.strerror or error}.") from error
    except ValueError as error:
        raise RequestError(f"{name} cannot be read as a recording: {error}.") from error
    if recording.seconds < MIN_SECONDS:
        raise RequestError(f"{name} lasts {recording.seconds:.2f} s, too short for a voice.")
    if not recording.voice.any():
        note(f"{name} is silent.")
    return recording


def _read(frames: Iterator[av.AudioFrame]) -> Recording:
    """Resample to both forms in one pass, and read no more than a clip can use."""
    first = next(frames, None)
    if first is None:
        raise ValueError("it has no audio")
    # Mixed into integers, channels do not become louder, as in the reference; into floats they would.
    hear = av.AudioResampler("s32p", "mono", MODEL_RATE)
    play = av.AudioResampler("s32p", "mono" if first.layout.nb_channels == 1 else "stereo", SAMPLE_RATE)
    voice, sound, heard = [], [], 0
    most = MAX_SECONDS * first.sample_rate + first.sample_rate // FPS
    for frame in chain([first], frames):
        if (frame.layout.name, frame.sample_rate) != (first.layout.name, first.sample_rate):
            raise ValueError("its channels or its sample rate change within the file; save it as wav")
        if not np.isfinite(frame.to_ndarray()).all():
            raise ValueError("its samples contain NaN or infinity")
        voice += hear.resample(frame)
        sound += play.resample(frame)
        heard += frame.samples
        if heard > most:
            break
    mono = _joined(voice + hear.resample(None), MODEL_RATE)
    both = _joined(sound + play.resample(None), SAMPLE_RATE)
    return Recording(mono[:, 0], np.broadcast_to(both, (len(both), 2)), longer=heard > most)


def _joined(frames: list[av.AudioFrame], rate: int) -> np.ndarray:
    """Join frames to (n, channels) float32 in [-1, 1], and cut them to the longest clip."""
    samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1).T
    return samples[: MAX_SECONDS * rate].astype(np.float32) / np.float32(2**31)


def _from_file(path: Path) -> Iterator[av.AudioFrame]:
    if path.is_file() and not path.stat().st_size:
        raise ValueError("it is empty")
    with path.open("rb") as file, av.open(file, "r", options={"format_whitelist": DEMUXERS}) as container:
        if not container.streams.audio:
            raise ValueError("it has no audio")
        stream, seconds = container.streams.audio[0], 0.0
        failed = damaged = False
        if stream.codec_context is None:
            raise ValueError("its audio codec is unknown")
        if stream.rate not in RATES:
            raise ValueError(f"its sample rate is {stream.rate} Hz")
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                failed = True
                continue
            damaged |= failed and bool(frames)  # a packet that fails after all audio is no damage
            for frame in frames:
                seconds += frame.samples / frame.sample_rate
                yield frame
        if failed and not seconds:
            raise ValueError("it is damaged")
        if damaged:
            note(f"{path} is damaged: parts that cannot be read are skipped.")
        promised = max(_promised_by(stream), _promised_by_wav(path))
        if seconds < 0.9 * promised:
            note(f"{path} seems cut off after {seconds:.1f} of {promised:.1f} s.")


def _promised_by(stream: av.AudioStream) -> float:
    """Return the seconds that the file declares; 0 where FFmpeg only estimates them from its size."""
    if stream.duration is None or stream.time_base is None or stream.container.format.name == "aac":
        return 0.0
    return float(stream.duration * stream.time_base)


def _promised_by_wav(path: Path) -> float:
    """Return the seconds that a WAV file's header declares, which FFmpeg ignores."""
    with suppress(wave.Error, EOFError), wave.open(str(path)) as file:
        if file.getnframes() * file.getnchannels() * file.getsampwidth() < UNKNOWN_BYTES:
            return file.getnframes() / file.getframerate()
    return 0.0


def _from_samples(sound: tuple[np.ndarray, int]) -> Iterator[av.AudioFrame]:
    if not isinstance(sound, tuple | list) or len(sound) != 2:
        raise ValueError("audio must be a path or a (samples, sample_rate) tuple")
    samples, rate = np.asarray(sound[0]), sound[1]
    if samples.dtype in (np.int16, np.int32):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    if samples.ndim == 1:
        samples = samples[:, None]
    if samples.dtype.kind != "f" or samples.ndim != 2 or samples.shape[1] not in (1, 2) or rate not in RATES:
        raise ValueError("samples must be (n,) or (n, 2), float, int16 or int32, with their rate in Hz")
    rate = int(rate)
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    for start in range(0, len(samples), rate):
        planes = np.ascontiguousarray(samples[start : start + rate].T, np.float32)
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
        frame.sample_rate = rate
        yield frame


def _fit(samples: np.ndarray, length: int) -> np.ndarray:
    return np.pad(samples[:length], [(0, max(length - len(samples), 0)), (0, 0)])
