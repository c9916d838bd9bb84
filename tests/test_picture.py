"""Any picture a person has becomes the first frame they see."""

import struct
import sys

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from mlx_happyhorse import RequestError
from mlx_happyhorse.inputs import picture

ORIENTATION = 0x0112


def display_p3() -> bytes:
    """The colour space of Macs' screens and phones' cameras, as an ICC profile with a gamma of 2.2."""
    colours = {
        b"wtpt": (0.9642, 1.0, 0.8249),
        b"rXYZ": (0.5151, 0.2412, -0.0011),
        b"gXYZ": (0.2920, 0.6922, 0.0419),
        b"bXYZ": (0.1571, 0.0666, 0.7841),
    }
    tags = {
        k: b"XYZ " + bytes(4) + struct.pack(">3i", *(round(c * 65536) for c in v)) for k, v in colours.items()
    }
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(value))
        data += value
    size = 128 + len(table) + len(data)
    header = struct.pack(">I4xI", size, 0x02400000) + b"mntrRGB XYZ " + bytes(12) + b"acsp"
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + data


def halves(mode="RGB", size=(40, 20)):
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, size[0], size[1]))
    return image.convert(mode)


def test_pictures_are_turned_as_the_camera_says(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the camera was held upright: turn clockwise to see it
    halves().save(tmp_path / "turned.jpg", exif=exif, quality=95)
    opened = picture.open_picture(tmp_path / "turned.jpg")
    assert opened.size == (20, 40)
    assert opened.getpixel((10, 5))[0] > 200 and opened.getpixel((10, 35))[2] > 200


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(tmp_path, mode):
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    image.paste((0, 0, 0, 255), (4, 0, 8, 8))
    image = image.convert(mode) if mode != "P" else image.quantize(4)
    opened = picture.open_picture(image)
    assert opened.mode == "RGB"
    assert min(opened.getpixel((1, 1))) >= 250 and max(opened.getpixel((6, 1))) <= 5


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "I;16", "I", "RGB"])
def test_every_usual_mode_becomes_rgb(mode):
    grey = Image.new("L", (8, 8), 128)
    image = Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)) if mode == "I;16" else grey.convert(mode)
    if mode == "I":
        image = Image.fromarray(np.full((8, 8), 128 * 257, np.int32))
    opened = picture.open_picture(image)
    level = 255 if mode == "1" else 128
    if mode != "1":
        assert np.abs(np.asarray(opened).astype(int) - level).max() <= 2
    assert opened.mode == "RGB"


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff", "bmp", "gif", "avif", "ppm"])
def test_the_usual_formats_are_read(tmp_path, kind):
    halves().save(tmp_path / f"a.{kind}")
    assert picture.open_picture(tmp_path / f"a.{kind}").getpixel((5, 5))[0] > 200


def test_a_wider_colour_space_is_brought_to_srgb():
    image = Image.new("RGB", (4, 4), (200, 100, 100))
    image.info["icc_profile"] = display_p3()
    red, green, blue = picture.open_picture(image).getpixel((0, 0))
    assert 208 <= red <= 216 and 90 <= green <= 98 and 92 <= blue <= 100
    image.info["icc_profile"] = b"nonsense"
    assert picture.open_picture(image).getpixel((0, 0)) == (200, 100, 100)


def test_pictures_are_cropped_around_their_centre():
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255
    fitted = picture.fit_picture(Image.fromarray(image), 64, 64)
    assert fitted.shape == (64, 64, 3) and fitted.dtype == np.float32
    assert fitted.min() == 1.0


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_the_smallest_picture_fills_the_frame(size):
    assert picture.fit_picture(Image.new("RGB", size, "red"), 96, 64).shape == (64, 96, 3)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1920, 1080), (448, 256)),
        ((1080, 1920), (256, 448)),
        ((3000, 2000), (416, 288)),
        ((1024, 768), (384, 288)),
        ((500, 500), (352, 352)),
        ((9000, 1000), (544, 224)),
    ],
)
def test_the_clip_takes_the_pictures_shape(shape, size):
    assert picture.base_size(Image.new("L", shape), (448, 256)) == size


def test_one_side_follows_from_the_other():
    image = Image.new("L", (1024, 768))
    assert picture.other_side(image, width=512) == 384
    assert picture.other_side(image, height=384) == 512


def test_large_pictures_are_reduced_before_anything_else():
    assert picture.open_picture(Image.new("L", (8200, 4100))).size == (8192, 4096)


def test_heic_is_read_where_its_plug_in_is(tmp_path):
    shades = np.tile(np.arange(0, 256, 4, np.uint8), (64, 1))
    pillow_heif.from_pillow(Image.fromarray(shades)).save(tmp_path / "a.heic", quality=95)
    seen = np.asarray(picture.open_picture(tmp_path / "a.heic")).astype(int)
    assert np.abs(seen - shades[..., None]).max() < 8


def test_heic_is_named_where_its_plug_in_is_not(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    Image.init()
    monkeypatch.setattr(Image, "OPEN", {k: v for k, v in Image.OPEN.items() if k != "HEIF"})
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    with pytest.raises(RequestError, match="is a HEIC picture: pip install pillow-heif"):
        picture.open_picture(tmp_path / "a.heic")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be opened: No such file"),
        (b"", "is empty"),
        (b"RIFF....WAVEfmt nonsense", "not a picture in a known format"),
        (b"\x89PNG\r\n\x1a\n" + b"\xff" * 60, "a.jpg"),
        ("truncated", "cannot be read as a picture"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, content, message):
    path = tmp_path / "a.jpg"
    if content == "truncated":
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path)
        content = path.read_bytes()[:2000]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=message) as refusal:
        picture.open_picture(path)
    assert len(str(refusal.value).split("\n")) == 1


def test_a_picture_that_would_fill_the_memory_is_refused_unread(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    with pytest.raises(RequestError, match="more than 178 million pixels"):
        picture.open_picture(tmp_path / "huge.png")


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), 5])
def test_what_is_no_image_array_is_refused(image):
    with pytest.raises(RequestError):
        picture.open_picture(image)


def test_floating_point_pixels_are_refused_in_words():
    with pytest.raises(RequestError, match="floating-point"):
        picture.open_picture(Image.new("F", (4, 4)))
