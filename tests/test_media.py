"""What goes into the file is what comes out of it."""

import json
from itertools import pairwise

import av
import numpy as np
import pytest

from mlx_happyhorse import Clip, HappyHorseError, RequestError
from mlx_happyhorse.outputs import mp4


@pytest.fixture
def clip():
    """A second of a white square that moves right over blue, and a 440 Hz tone on the left only."""
    frames = np.zeros((25, 64, 96, 3), np.uint8)
    frames[..., 2] = 200
    for i, frame in enumerate(frames):
        frame[16:48, 2 * i : 2 * i + 32] = 255
    t = np.arange(44_100) / 44_100
    tone = 0.5 * np.sin(2 * np.pi * 440 * t)
    sound = np.stack([tone, 0 * tone], 1).astype(np.float32)
    return Clip(frames, sound, {"prompt": "ein Quadrat …", "seed": 1})


def test_streams_are_what_players_expect(clip, tmp_path):
    path = clip.save(tmp_path / "a.mp4")
    with av.open(str(path)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert (video.codec_context.name, video.pix_fmt, video.average_rate) == ("h264", "yuv420p", 25)
        assert (video.width, video.height, video.frames) == (96, 64, 25)
        assert (audio.codec_context.name, audio.rate, audio.layout.name) == ("aac", 44_100, "stereo")
        assert json.loads(file.metadata["comment"]) == clip.settings
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_the_same_frames_make_the_same_file(clip, tmp_path):
    """x264's fastest routes read memory that others left behind: here it is never the same."""
    noise = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3), np.uint8)
    files = set()
    for i in range(20):
        left_behind = [np.full(size, i, np.uint8) for size in (3000, 4096, 6144, 8192, 12288, 100_000)]
        del left_behind
        files.add(Clip(noise, clip.audio[:8820]).save(tmp_path / "a.mp4").read_bytes())
    assert len(files) == 1


def test_sound_lies_beside_its_picture_in_the_file(clip, tmp_path):
    long = Clip(np.tile(clip.video, (14, 1, 1, 1)), np.tile(clip.audio, (14, 1)))
    with av.open(str(long.save(tmp_path / "a.mp4"))) as file:
        packets = [(p.pos, float(p.pts * p.time_base)) for p in file.demux() if p.pts is not None]
    times = [time for _, time in sorted(packets)]
    assert max(abs(b - a) for a, b in pairwise(times)) < 1.5


def test_colours_and_motion_survive(clip, tmp_path):
    with av.open(str(clip.save(tmp_path / "a.mp4"))) as file:
        shown = np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])
    assert shown.shape == clip.video.shape
    assert np.abs(shown.astype(int) - clip.video).mean() < 3
    for i, frame in enumerate(shown):
        assert abs(np.argwhere(frame[32, :, 0] > 128).mean() - (2 * i + 15.5)) < 1


def test_sound_survives_in_place(clip, tmp_path):
    with av.open(str(clip.save(tmp_path / "a.mp4"))) as file:
        heard = np.concatenate([f.to_ndarray() for f in file.decode(audio=0)], axis=1).T
    heard = heard[: len(clip.audio)]
    assert np.corrcoef(heard[:, 0], clip.audio[:, 0])[0, 1] > 0.99
    assert np.abs(heard[:, 1]).max() < 0.01


def test_a_failed_save_leaves_nothing_and_spares_what_was_there(clip, tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"older")
    monkeypatch.setattr(mp4, "_encode_sound", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(HappyHorseError, match=r"a\.mp4 could not be written: disk full"):
        clip.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert path.read_bytes() == b"older"


@pytest.mark.parametrize(
    ("video", "audio", "message"),
    [
        (np.zeros((1, 4, 4, 3)), np.zeros((4, 2), np.float32), "video must be uint8"),
        (np.zeros((0, 4, 4, 3), np.uint8), np.zeros((4, 2), np.float32), "video must be uint8"),
        (np.zeros((1, 5, 4, 3), np.uint8), np.zeros((4, 2), np.float32), "must be even"),
        (np.zeros((1, 4, 4, 3), np.uint8), np.zeros(4, np.float32), "audio must be float32"),
    ],
)
def test_what_cannot_be_a_clip_is_refused(video, audio, message):
    with pytest.raises(RequestError, match=message):
        Clip(video, audio)
