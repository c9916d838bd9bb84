"""The first frame: any picture a person has, upright, on white, in the clip's size."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from contextlib import suppress
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image, ImageCms, ImageOps

from ..errors import RequestError
from ..files import expanded
from ..geometry import GRID

Picture = str | Path | Image.Image | np.ndarray | mx.array

# No EPS among them, which would start another program.
FORMATS = ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF", "JPEG2000", "PPM"]
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
MOST_PIXELS = 2 * 89_478_485  # where Pillow takes a picture for an attack
ENOUGH = 4096  # pixels of the shorter side: what is larger is scaled down even before it is cropped
LONGEST = 2048  # pixels of a clip's side
WIDEST = 2.4  # a shape beyond it, a panorama say, is cropped


def open_picture(image: Picture) -> Image.Image:
    """A path, a PIL image or a uint8 array (height, width, 3 or 4) → an RGB image as a viewer would show it.

    Turned as its EXIF says, transparency on white, colours in sRGB. Raises RequestError."""
    name = "the picture"
    if isinstance(image, str | Path):
        opened, name = _open_file(expanded(image)), str(image)
    elif isinstance(image, np.ndarray | mx.array):
        opened = _from_array(image)
    elif isinstance(image, Image.Image):
        opened = image
    else:
        raise RequestError(f"an image is a path, a PIL image or an array, not {image!r}.")
    try:
        if opened.width * opened.height > MOST_PIXELS:
            raise Image.DecompressionBombError
        return _as_rgb(opened)
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise RequestError(f"{name} cannot be read as a picture: {error or 'it is damaged'}.") from error


def digest(image: Image.Image) -> str:
    """A name for what is seen in an RGB image, wherever it came from."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:16]


def base_size(image: Image.Image, usual: tuple[int, int]) -> tuple[int, int]:
    """Width and height nearest to the image's shape, with about as many pixels as the `usual` ones."""
    return shaped(image.width / image.height, usual)


def shaped(shape: float, usual: tuple[int, int]) -> tuple[int, int]:
    """Width and height nearest to a shape, width by height, with about as many pixels as the `usual` ones."""
    area = math.prod(usual)
    shape = min(max(shape, 1 / WIDEST), WIDEST)
    sides = range(GRID, math.isqrt(int(3 * area)) + 1, GRID)
    sizes = [(w, h) for w in sides for h in sides if abs(w * h / area - 1) < 1 / 8] or [usual]
    return min(sizes, key=lambda s: (round(abs(math.log(s[0] / s[1] / shape)), 6), abs(math.prod(s) - area)))


def other_side(image: Image.Image, *, width: int | None = None, height: int | None = None) -> int:
    """The side that follows, in the image's shape, from the one that is given."""
    shape = min(max(image.width / image.height, 1 / WIDEST), WIDEST)
    pixels = width / shape if width is not None else (height or GRID) * shape
    return min(max(GRID, round(pixels / GRID) * GRID), LONGEST)


def fit_picture(image: Image.Image, width: int, height: int) -> np.ndarray:
    """Cropped around its centre to the target's shape, resized: (height, width, 3) float32 in [-1, 1]."""
    w, h = image.size
    if h * width > w * height:
        crop_w, crop_h = w, max(int(w * height / width), 1)
    else:
        crop_w, crop_h = max(int(h * width / height), 1), h
    # Pillow rounds the box to whole pixels, and so the reference's crop lies.
    box = (w - crop_w) / 2, (h - crop_h) / 2, (w + crop_w) / 2, (h + crop_h) / 2
    resized = image.crop(box).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized, np.float32) / 127.5 - 1


def _from_array(array: np.ndarray | mx.array) -> Image.Image:
    is_rgb = array.ndim == 3 and array.shape[2] in (3, 4) and array.size > 0
    if not is_rgb or array.dtype not in (np.uint8, mx.uint8):
        raise RequestError("an image array must be uint8 of shape (height, width, 3) or (…, 4).")
    return Image.fromarray(np.array(array))


def _open_file(path: Path) -> Image.Image:
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours
            return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
    except Image.UnidentifiedImageError as error:
        raise RequestError(_why_unknown(path)) from error
    except Image.DecompressionBombError as error:
        raise _too_large(str(path)) from error
    except OSError as error:
        raise RequestError(f"the picture {path} cannot be opened: {error.strerror or error}.") from error
    except Exception as error:
        raise RequestError(f"{path} cannot be read as a picture: {error}.") from error


def _why_unknown(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(12)
    if not start:
        return f"the picture {path} is empty."
    if start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS and "HEIF" not in Image.OPEN:
        return f"{path} is a HEIC picture: pip install pillow-heif to read it, or save it as JPEG."
    return f"{path} is not a picture in a known format, or it is damaged: save it as JPEG or PNG."


def _too_large(name: str) -> RequestError:
    return RequestError(
        f"{name} has more than {MOST_PIXELS // 10**6} million pixels: scale it down, "
        f"{ENOUGH} on its shorter side are enough."
    )


def _as_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image), 0, 65535)
        # Either 16 bits, or 8 in a wider type: a picture darker than that has nothing to see.
        image = Image.fromarray((grey // (257 if grey.max() > 255 else 1)).astype(np.uint8))
    image = _in_srgb(_on_white(image))
    if min(image.size) > ENOUGH:
        scale = ENOUGH / min(image.size)
        sides = round(image.width * scale), round(image.height * scale)
        image = image.resize(sides, Image.Resampling.LANCZOS)
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    flat = Image.alpha_composite(white, layer).convert("RGB")
    flat.info = image.info
    return flat


def _in_srgb(image: Image.Image) -> Image.Image:
    """Photographs of phones and Macs' screenshots are in wider colour spaces."""
    if profile := image.info.get("icc_profile"):
        with suppress(ImageCms.PyCMSError, OSError):  # a broken profile is passed over, as viewers do
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")
