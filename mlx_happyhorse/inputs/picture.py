"""The picture of the first frame: read in any common format, and fitted to the clip."""

from __future__ import annotations

import hashlib
import io
import math
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image, ImageCms, ImageOps

from ..errors import RequestError
from ..files import expanded
from ..geometry import GRID

Picture = str | Path | Image.Image | np.ndarray | mx.array

# Not EPS, for which Pillow would start another program.
FORMATS = ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF", "JPEG2000", "PPM"]
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
# Errors of Pillow's decoders for damaged files; they have no common class.
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)
MAX_PIXELS = 2 * 89_478_485  # where Pillow raises DecompressionBombError
MAX_SHORTER_SIDE = 4096  # pixels: a larger picture is scaled down before it is cropped
LONGEST = 2048  # pixels of a clip's side
WIDEST = 2.4  # width by height: a wider shape, such as a panorama's, is cropped


def open_picture(image: Picture) -> Image.Image:
    """Return a path, a PIL image or a uint8 array (height, width, 3 or 4) as an RGB image.

    It is rotated as its EXIF says, transparency becomes white, and colours are converted to sRGB. Raise
    RequestError if it cannot be read."""
    name = "the picture"
    if isinstance(image, str | Path):
        opened, name = _open_file(expanded(image)), str(image)
    elif isinstance(image, np.ndarray | mx.array):
        opened = _from_array(image)
    elif isinstance(image, Image.Image):
        opened = image
    else:
        raise RequestError(f"an image must be a path, a PIL image or an array, not {image!r}.")
    try:
        if opened.width * opened.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        return _as_rgb(opened)
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except DAMAGED as error:
        raise RequestError(f"{name} cannot be read as a picture: {error or 'it is damaged'}.") from error


def digest(image: Image.Image) -> str:
    """Return a hash of an RGB image's size and pixels."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:16]


def base_size(image: Image.Image, usual: tuple[int, int]) -> tuple[int, int]:
    """Return the width and height nearest to the image's shape, with about as many pixels as `usual`."""
    return shaped(image.width / image.height, usual)


def shaped(shape: float, usual: tuple[int, int]) -> tuple[int, int]:
    """Return the width and height nearest to a shape (width / height), with about as many pixels as `usual`:
    within 1/8."""
    area = math.prod(usual)
    shape = min(max(shape, 1 / WIDEST), WIDEST)
    sides = range(GRID, math.isqrt(int(3 * area)) + 1, GRID)
    sizes = [(w, h) for w in sides for h in sides if abs(w * h / area - 1) < 1 / 8] or [usual]
    return min(sizes, key=lambda s: (round(abs(math.log(s[0] / s[1] / shape)), 6), abs(math.prod(s) - area)))


def other_side(image: Image.Image, *, width: int | None = None, height: int | None = None) -> int:
    """Return the missing side of a clip in the image's shape, in pixels."""
    shape = min(max(image.width / image.height, 1 / WIDEST), WIDEST)
    pixels = width / shape if width is not None else (height or GRID) * shape
    return min(max(GRID, round(pixels / GRID) * GRID), LONGEST)


def fit_picture(image: Image.Image, width: int, height: int) -> np.ndarray:
    """Crop around the centre to the target's shape, and resize: (height, width, 3) float32 in [-1, 1]."""
    w, h = image.size
    if h * width > w * height:
        crop_w, crop_h = w, max(int(w * height / width), 1)
    else:
        crop_w, crop_h = max(int(h * width / height), 1), h
    # Pillow rounds the box to whole pixels, as in the reference.
    box = (w - crop_w) / 2, (h - crop_h) / 2, (w + crop_w) / 2, (h + crop_h) / 2
    resized = image.crop(box).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized, np.float32) / 127.5 - 1


def _from_array(array: np.ndarray | mx.array) -> Image.Image:
    is_rgb = array.ndim == 3 and array.shape[2] in (3, 4) and array.size > 0
    if not is_rgb or array.dtype not in (np.uint8, mx.uint8):
        raise RequestError("an image array must be uint8 of shape (height, width, 3) or (height, width, 4).")
    return Image.fromarray(np.array(array))


def _open_file(path: Path) -> Image.Image:
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is checked instead
            return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
    except Image.UnidentifiedImageError as error:
        raise RequestError(_why_unknown(path)) from error
    except Image.DecompressionBombError as error:
        raise _too_large(str(path)) from error
    except OSError as error:
        raise RequestError(f"the picture {path} cannot be opened: {error.strerror or error}.") from error
    except DAMAGED as error:
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
        f"{name} has more than {MAX_PIXELS // 10**6} million pixels: scale it down; "
        f"{MAX_SHORTER_SIDE} on its shorter side are enough."
    )


def _as_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image), 0, 65535)
        # 16 bits, or 8 in a wider type: a 16-bit picture without a value above 255 would be black.
        image = Image.fromarray((grey // (257 if grey.max() > 255 else 1)).astype(np.uint8))
    image = _in_srgb(_on_white(image))
    if min(image.size) > MAX_SHORTER_SIDE:
        scale = MAX_SHORTER_SIDE / min(image.size)
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
    """Convert to sRGB: photos of phones and screenshots of Macs are in wider colour spaces."""
    if profile := image.info.get("icc_profile"):
        with suppress(ImageCms.PyCMSError, OSError):  # a broken profile is ignored, as viewers do
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")
