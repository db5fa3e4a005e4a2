"""The one way to open a picture from outside: bytes to upright 8-bit RGB, or the reason why not.

Only the formats listed here are opened: Pillow would also open EPS, which starts ghostscript. Sizes
are read from the header and checked before any pixel is decoded.
"""

import io
import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from scemae.errors import DataError, FileError
from scemae.files import disk

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
KINDS = "JPEG, PNG, WebP, TIFF, BMP, GIF or PPM"  # the same in words
LARGEST = 100_000_000  # pixels: 300 MB as RGB
SMALLEST = 32  # pixels of a side: less is a blur in a frame of 136
MOST_BYTES = 256 * disk.MIB  # of a file, and of a member of a shard
# Of a progressive JPEG: each scan passes over all pixels; encoders write about ten.
MOST_SCANS = 100
# From EXIF's orientation to upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112  # EXIF's tag
DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # 16 bits per pixel, grey
ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")

# LARGEST is our own limit.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# About damaged metadata, which change no pixel.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnusablePicture(ValueError):
    """A picture cannot be used; the message is the reason, a phrase without the file's name."""


def read_picture(path: Path) -> Image.Image:
    """An image file as `open_picture` gives it, at least SMALLEST pixels each way.

    Raises DataError in one sentence.
    """
    if not path.exists() or path.is_dir():
        raise DataError(
            f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; give an image file"
        )
    try:
        image = open_picture(disk.read_bytes(path, MOST_BYTES))
        check_sides(*image.size)
    except FileError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); give an image file that can"
        ) from error
    except UnusablePicture as error:
        raise DataError(f"{path}: {error}; give a whole {KINDS} picture") from error
    return image


def open_picture(data: bytes, *, upright: bool = True) -> Image.Image:
    """The bytes of an image file as 8-bit RGB. Raises UnusablePicture.

    Transparent parts become white, 16 bits are reduced to 8, of several pictures the first is
    taken. upright: turn the picture as its EXIF says.
    """
    if not data:
        raise UnusablePicture("empty file")
    try:
        _check_scans(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_pixels(*image.size)
            image.load()
            return to_rgb(turned(image) if upright else image)
    except UnusablePicture:
        raise
    except UnidentifiedImageError as error:
        raise UnusablePicture("not an image that can be read") from error
    except Image.DecompressionBombError as error:
        raise UnusablePicture(
            f"found more than {LARGEST // 10**6} million pixels, which is too large"
        ) from error
    except Exception as error:  # on damaged files Pillow raises struct.error, KeyError, ...
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UnusablePicture(f"is damaged ({reason})") from error


def decode_jpeg(data: bytes, *, strict: bool = False, into: np.ndarray | None = None) -> np.ndarray:
    """JPEG bytes to (h, w, 3) uint8 by simplejpeg, as stored: EXIF's orientation is ignored.

    The header is checked first. strict: a missing end or a damaged block is an error. into: an
    array that is filled and returned where the JPEG has its size. Raises UnusablePicture (a
    ValueError).
    """
    width, height = check_jpeg(data)
    try:
        if into is not None and into.shape[:2] == (height, width):
            simplejpeg.decode_jpeg(data, strict=strict, buffer=into)
            return into
        return simplejpeg.decode_jpeg(data, strict=strict)
    except ValueError as error:
        raise UnusablePicture(f"the JPEG does not decode wholly ({error})") from error


def decode_image(
    data: bytes, *, strict: bool = False, into: np.ndarray | None = None
) -> np.ndarray:
    """As decode_jpeg; what begins like no JPEG is opened by Pillow, as stored (open_picture)."""
    if data[:2] == b"\xff\xd8":
        return decode_jpeg(data, strict=strict, into=into)
    return np.asarray(open_picture(data, upright=False))


def check_jpeg(data: bytes) -> tuple[int, int]:
    """(width, height) of a JPEG by its header.

    Raises UnusablePicture where it is no JPEG, or would take too much memory or time to decode.
    """
    try:
        height, width = simplejpeg.decode_jpeg_header(data, strict=False)[:2]
    except (ValueError, KeyError) as error:  # KeyError: an unknown colour space
        raise UnusablePicture("the JPEG does not decode wholly (its header is damaged)") from error
    check_pixels(width, height)
    _check_scans(data)
    return width, height


def is_turned(data: bytes) -> bool:
    """True where the EXIF of a JPEG says that its pixels are not upright as stored."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            return _orientation(image) in TURNS
    except Exception:  # Pillow may raise anything; decoding will report the damage
        return False


def upright_size(data: bytes) -> tuple[tuple[int, int], bool]:
    """(width, height) of a picture as it is shown, by its header; whether its EXIF turns it.

    Raises UnusablePicture.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            turn, size = _orientation(image), image.size
    except Exception as error:  # as in open_picture
        raise UnusablePicture("not an image that can be read") from error
    check_pixels(*size)
    return (size[::-1] if turn in (5, 6, 7, 8) else size), turn in TURNS


def check_pixels(width: int, height: int) -> None:
    """Raises UnusablePicture for a picture that is too large to decode."""
    if width * height > LARGEST:
        raise UnusablePicture(
            f"found {width}x{height} pixels, more than {LARGEST // 10**6} million, "
            "which is too large"
        )


def check_sides(width: int, height: int) -> None:
    """Raises UnusablePicture for a picture that is too small to use."""
    if min(width, height) < SMALLEST:
        raise UnusablePicture(
            f"found {width}x{height} pixels, at least {SMALLEST} each way were needed"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of an image of any of Pillow's modes.

    Raises UnusablePicture for pixels without a known range.
    """
    if image.mode in DEEP:
        image = _grey_of_deep(image)
    if image.mode == "F":
        raise UnusablePicture("its pixels are floating-point numbers without a known range")
    if image.mode in ALPHA or "transparency" in image.info:
        image = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_of_deep(image: Image.Image) -> Image.Image:
    """65535 becomes 255; the value that the file declares transparent becomes white."""
    values = np.asarray(image)
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise UnusablePicture("its pixels are 32-bit numbers without a known range")
    grey, hidden = (values // 257).astype(np.uint8), image.info.get("transparency")
    if isinstance(hidden, int):
        grey[values == hidden] = 255
    return Image.fromarray(grey)


def turned(image: Image.Image) -> Image.Image:
    """An image as its EXIF says that it is upright."""
    turn = TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF is common: take the picture as it is stored
        return 1


def _check_scans(data: bytes) -> None:
    if data[:2] == b"\xff\xd8" and (scans := data.count(b"\xff\xda")) > MOST_SCANS:
        raise UnusablePicture(f"a JPEG of {scans} scans, which would take long to decode")
