"""Previews from latents: near what is decoded, better with every clip, kept by decoder, never in the way."""

import numpy as np
import pytest
from helpers.commands import SHORT, run
from helpers.models import golden_model
from PIL import Image

from mlx_happyhorse import HappyHorse, RequestError
from mlx_happyhorse.pipeline import preview
from mlx_happyhorse.pipeline.preview import Colours, Preview, PreviewFile, encode_webp

SMALL = {"seconds": 0.52, "width": 128, "height": 96, "steps": 2}
pytestmark = pytest.mark.filterwarnings("ignore:tiny")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HAPPYHORSE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def linear_decoder(channels=48, seed=0):
    """Frames whose cells are of one colour, an affine map of their latent's channels."""
    weights = np.random.default_rng(seed).standard_normal((channels, 3)) * 8

    def decode(latents):
        for i, latent in enumerate(np.array(latents)):
            colours = np.clip(latent @ weights + 128, 0, 255).astype(np.uint8)
            frame = colours.repeat(16, axis=0).repeat(16, axis=1)[None]
            yield frame.repeat(4 if i else 1, axis=0)

    return decode


def test_a_linear_decoder_is_learned(home):
    found = Preview.of("linear", 48, linear_decoder())
    latents = np.random.default_rng(1).standard_normal((3, 4, 6, 48)).astype(np.float32)
    expected = np.stack([frames[-1, ::16, ::16] for frames in linear_decoder()(latents)])
    shown = found.render(latents)
    assert shown.shape == (3, 4, 6, 3) and shown.dtype == np.uint8
    error = np.sqrt(np.mean((shown.astype(float) - expected) ** 2))
    assert error < 0.4 * expected.std()  # the frames are clipped


def test_clips_improve_the_map(home):
    """What is seen in clips counts for more than what was seen in noise."""
    found, decode = Preview.of("linear", 48, linear_decoder()), linear_decoder(seed=1)
    generator = np.random.default_rng(2)
    latents = generator.standard_normal((3, 4, 6, 48)).astype(np.float32)
    expected = np.stack([frames[-1, ::16, ::16] for frames in decode(latents)])
    errors = []
    for _ in range(6):
        errors.append(np.abs(found.render(latents) - expected.astype(float)).mean())
        seen, colours = generator.standard_normal((3, 16, 16, 48)).astype(np.float32), Colours()
        for frames in decode(seen):
            colours.add(frames)
        found.learn(seen, colours)
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 2


@pytest.mark.parametrize("turbo", [True, False])
def test_where_colours_do_not_follow_about_the_mean_is_shown(home, turbo):
    """The toy decoders' weights are random: their colours follow no cell by itself."""
    horse = HappyHorse.load("tiny") if turbo else golden_model("distill", turbo=False)
    errors, plain = [], []
    for seed in range(2):
        colours = Colours()
        for state in horse.stream("a ball", seed=seed, keep_frames=False, preview=True, **SMALL):
            if state.stage == "denoise" and state.step == state.steps:
                shown = state.preview.astype(float)
            if state.frames is not None:
                colours.add(state.frames)
        decoded = colours.of_latents()
        errors.append(np.abs(shown - decoded).mean())
        plain.append(np.abs(decoded - decoded.mean((0, 1, 2))).mean())
    assert errors[-1] < 1.1 * plain[-1]
    assert len(list((home / "previews").iterdir())) == 1


def test_nothing_is_shown_or_kept_unless_asked_for(home):
    states = list(HappyHorse.load("tiny").stream("a ball", **SMALL))
    assert all(state.preview is None for state in states)
    assert not (home / "previews").exists()


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive", b"\x80\x04.", b"\x93NUMPY"])
def test_a_damaged_map_is_fitted_anew(home, damage):
    made = Preview.of("linear", 48, linear_decoder())
    (file,) = (home / "previews").iterdir()
    file.write_bytes(damage)
    assert preview.load("linear", 48) is None
    assert np.array_equal(Preview.of("linear", 48, linear_decoder()).gram, made.gram)
    assert preview.load("linear", 48) is not None and preview.load("linear", 16) is None


def test_a_disk_that_cannot_be_written_costs_no_preview(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HAPPYHORSE_HOME", str(tmp_path / "file"))
    assert Preview.of("linear", 48, linear_decoder()).render(np.zeros((1, 2, 2, 48))).shape == (1, 2, 2, 3)


def test_an_image_of_several_frames_plays(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (5, 4, 6, 3), np.uint8)
    for count in (1, 5):
        (tmp_path / "p.webp").write_bytes(encode_webp(frames[:count]))
        with Image.open(tmp_path / "p.webp") as image:
            assert getattr(image, "n_frames", 1) == count and image.size == (448, 299)


@pytest.mark.parametrize("name", ["p.webp", "p.png", "P.JPG"])
def test_the_command_line_writes_a_preview_at_every_step(in_empty_folder, tmp_path, monkeypatch, name):
    written = []
    write = PreviewFile.write
    monkeypatch.setattr(
        PreviewFile, "write", lambda self, frames: (write(self, frames), written.append(frames))
    )
    assert run("generate", "x", *SHORT[:-4], "--steps", "3", "--preview", name) == 0
    assert len(written) == 3 and Image.open(tmp_path / name).size == (224, 448)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["clip.mp4", name])


def test_a_preview_elsewhere_is_refused_before_the_run(in_empty_folder, tmp_path, capsys):
    assert run("generate", "x", *SHORT, "--preview", "p.gif") == 2
    assert run("generate", "x", *SHORT, "--preview", "nowhere/p.png") == 2
    assert "a preview is a .webp (animated), .png or .jpg file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RequestError):
        PreviewFile("p")


def test_a_preview_that_cannot_be_written_ends_no_run(in_empty_folder, tmp_path, monkeypatch, capsys):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert run("generate", "x", *SHORT[:-4], "--steps", "2", "--preview", "p.png") == 0
    assert capsys.readouterr().err.count("p.png could not be written: No space left on device") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
