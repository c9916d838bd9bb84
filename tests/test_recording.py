"""A person's recording is read as it sounds, in time, whatever its format."""

import warnings

import numpy as np
import pytest
from helpers.sounds import best_lag, speech, write

from mlx_happyhorse import Clip, RequestError
from mlx_happyhorse.inputs import recording

KINDS = {"wav": "pcm_s16le", "flac": "flac", "ogg": "libopus", "mp3": "libmp3lame", "m4a": "aac"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_usual_formats_are_heard_in_time(tmp_path, kind):
    said = speech(2)
    heard = recording.open_recording(write(tmp_path / f"a.{kind}", said, codec=KINDS[kind]))
    for samples, rate in ((heard.voice, 51_200), (heard.sound[:, 0], 44_100)):
        expected = np.interp(np.arange(2 * rate) / rate, np.arange(len(said)) / 48_000, said)
        lag, likeness = best_lag(samples, expected)
        assert abs(lag) <= 2 and likeness > 0.97
    assert heard.voice.dtype == heard.sound.dtype == np.float32
    assert heard.seconds == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(("rate", "layout"), [(8_000, "mono"), (192_000, "stereo"), (48_000, "5.1")])
def test_any_rate_and_number_of_channels(tmp_path, rate, layout):
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    said = np.tile(speech(1, rate), (channels, 1))
    heard = recording.open_recording(write(tmp_path / "a.wav", said, rate, layout=layout))
    expected = np.interp(np.arange(51_200) / 51_200, np.arange(rate) / rate, said[0])
    lag, likeness = best_lag(heard.voice, expected)
    assert abs(lag) <= 2 and likeness > 0.9
    assert heard.sound.shape == (44_100, 2)


@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2), ("5.1", 6)])
def test_it_is_as_loud_as_it_was(tmp_path, layout, channels):
    tone = 0.9 * np.sin(np.arange(48_000) / 20)
    heard = recording.open_recording(write(tmp_path / "a.wav", np.tile(tone, (channels, 1)), layout=layout))
    for samples in (heard.voice, heard.sound[:, 0], heard.sound[:, 1]):
        assert np.abs(samples[2000:-2000]).max() == pytest.approx(0.9, rel=0.01)


def test_arrays_are_recordings_too():
    said = speech(1, 44_100)
    integers = [(said * -np.iinfo(kind).min).astype(kind) for kind in (np.int16, np.int32)]
    for samples in (said, np.stack([said, said], 1), *integers):
        heard = recording.open_recording((samples, 44_100.0))
        assert np.abs(heard.sound[:, 0] - said).max() < 1e-3


@pytest.mark.parametrize(("seconds", "frames"), [(1, 25), (4, 101), (4.04, 101), (4.05, 105), (0.1, 5)])
def test_the_clip_is_just_long_enough(seconds, frames):
    heard = recording.open_recording((speech(seconds, 51_200), 51_200))
    assert round(heard.clip_seconds * 25) + 1 == frames
    assert frames / 25 >= heard.seconds > (frames - 4) / 25 or frames == 5


def test_what_the_model_hears_is_in_time_with_what_the_file_plays():
    heard = recording.open_recording((speech(1), 48_000))
    model, file = heard.samples(25)[:, 0], heard.soundtrack(25)[:, 0]
    lag, likeness = best_lag(np.interp(np.arange(44_100) / 44_100, np.arange(51_200) / 51_200, model), file)
    assert lag == 0 and likeness > 0.99


def test_what_is_missing_is_silence():
    heard = recording.open_recording((speech(1, 51_200), 51_200))
    samples = heard.samples(40)
    assert samples.shape == (40 * 2048, 2) and not samples[51_200:].any() and samples[:51_200].any()
    assert heard.soundtrack(10).shape == (17_640, 2)


def test_a_minute_is_not_too_long(tmp_path):
    heard = recording.open_recording(write(tmp_path / "a.wav", speech(60, 44_100), 44_100))
    assert not heard.longer and heard.clip_seconds == 60 and len(heard.voice) == 60 * 51_200


def test_two_hours_are_not_read_to_their_end(tmp_path):
    path = write(tmp_path / "a.wav", np.tile(speech(60, 8000), 120), 8000)
    heard = recording.open_recording(path)
    assert heard.longer and heard.seconds == 60
    with pytest.raises(RequestError, match="longer than 60 s: cut it, or give seconds"):
        _ = heard.clip_seconds


def test_silence_is_said():
    with pytest.warns(UserWarning, match="silent"):
        recording.open_recording((np.zeros(10_000, np.float32), 10_000))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be opened: No such file"),
        (b"", "it is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not a recording, or it is damaged: save it as wav"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n", "is not a recording"),
        (
            b"RIFF\x2c\x08\0\0WAVEfmt \x10\0\0\0\x34\x12\1\0\x44\xac\0\0\x88\x58\1\0\2\0\x10\0"
            b"data\0\x08\0\0" + bytes(2048),
            "audio codec is unknown",
        ),
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", "is not a recording"),
    ],
)
def test_what_is_no_recording_is_named(tmp_path, content, message):
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=message):
        recording.open_recording(path)


def test_one_damaged_spot_does_not_cost_the_recording(tmp_path):
    path = write(tmp_path / "a.mp3", speech(4), codec="libmp3lame")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(range(200)) * 2
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="is damaged: parts that cannot be read are skipped"):
        assert 3.5 < recording.open_recording(path).seconds < 4.1


def test_what_follows_a_whole_recording_is_no_damage(tmp_path):
    path = write(tmp_path / "a.mp3", speech(8), codec="libmp3lame")
    path.write_bytes(path.read_bytes() + b"LYRICSBEGIN" + bytes(range(1, 250)) * 12)
    with warnings.catch_warnings(action="error"):
        assert recording.open_recording(path).seconds == pytest.approx(8, abs=0.1)


def test_a_videos_sound_may_be_shorter_than_its_picture(tmp_path):
    frames, sound = np.zeros((50, 32, 32, 3), np.uint8), speech(1, 44_100)
    path = Clip(frames, np.stack([sound, sound], 1)).save(tmp_path / "a.mp4")
    with warnings.catch_warnings(action="error"):
        assert recording.open_recording(path).seconds == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"ogg"}))  # whose length is what is there
def test_a_cut_off_file_is_used_aloud_or_refused(tmp_path, kind):
    path = write(tmp_path / f"a.{kind}", speech(4), codec=KINDS[kind])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with warnings.catch_warnings(record=True) as notes:
        try:
            assert recording.open_recording(path).seconds < 3
            said = str(notes[0].message)
        except RequestError as refusal:
            said = str(refusal)
    assert "seems cut off after" in said or "is not a recording" in said


@pytest.mark.parametrize(
    "sound",
    [
        (speech(0.01), 48_000),
        (np.full(48_000, np.nan, np.float32), 48_000),
        (np.zeros((4800, 3), np.float32), 48_000),
        (np.zeros(4800, np.float32), 0),
        (np.zeros(4800, np.int64), 48_000),
        (np.zeros(0, np.float32), 48_000),
        5,
        (1, 2, 3),
    ],
)
def test_what_cannot_be_a_voice_is_refused(sound):
    with pytest.raises(RequestError):
        recording.open_recording(sound)


def test_a_video_without_sound_is_refused(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=25, width=64, height=64, pix_fmt="yuv420p")
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(RequestError, match="it has no audio"):
        recording.open_recording(tmp_path / "a.mp4")
