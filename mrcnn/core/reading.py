"""Any image file -> an array."""

import errno
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from mrcnn.core.files import PathLike

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"),
    *(".avif", ".heic", ".heif", ".jp2", ".ppm", ".pgm"),
)
HEIF = (".heic", ".heif")
# Formats that are tried first: Pillow has them at hand without loading all its plug-ins.
_COMMON = ("JPEG", "PNG", "GIF", "BMP", "PPM")
# What Pillow only knows by name, or hands on to another program (EPS: to Ghostscript, which
# would run what a stranger's file tells it).
_NEVER = frozenset({"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR"})
# Formats whose first bytes can't be those of something else.
_SIGNED = ("JPEG", "PNG", "GIF", "TIFF", "JPEG2000", "WEBP", "AVIF")
# What Pillow's decoders say, and what that means.
_MEANING = (
    ("truncated", "it is cut off"),
    ("too large for .*CHUNK|Too many|too large.*chunk", "its metadata unpack to too much"),
    ("Unsupported|unsupported|not supported|unknown", "it is of a kind that can't be decoded"),
    ("", "its data are damaged"),
)
# Pillow's own ceiling; its memory as RGB is half a gigabyte.
MAX_PIXELS = 178_956_970
_EXIF_ORIENTATION = 0x0112
# Where Pillow looks for it.
_EXIF_SOURCES = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})
# What turns the stored image upright, by the value of the EXIF tag; 1 is upright already.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """A file that can't be read as an image."""


def read_image(path: PathLike, apply_exif: bool = True, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads any image that Pillow opens.

    Palette, grey, CMYK and 16 bit images (scaled to 8) become RGB; what is transparent
    becomes white; of an animation the first frame is taken. HEIC needs the package
    pillow-heif.

    Args:
        apply_exif: turn the image upright as its EXIF orientation says. False for annotated
            data, whose polygons refer to the pixels as they are stored (TIFF is turned anyway).
        max_pixels: a larger image is refused before it is decoded.

    Returns:
        [H, W, 3] uint8 RGB.

    Raises:
        ImageError: if the file is missing, empty, truncated, too large, a directory or no
            image.
    """
    size = _file_size(path)
    try:
        with _open(path) as stored:
            _check_pixels(stored, max_pixels)
            stored.load()
            turn = _UPRIGHT.get(_orientation(stored)) if apply_exif else None
            image = _to_rgb(stored)
        return _to_array(image if turn is None else image.transpose(turn))
    except Exception as error:  # Damaged files make Pillow's decoders raise all sorts of errors.
        why = _reason(error, path) if size else "the file is empty"
        raise ImageError(f"{path} cannot be read: {why}; pass a valid JPEG, PNG, ...") from error


def is_image(path: PathLike) -> bool:
    """Whether a file looks like an image by its content, whatever its ending."""
    try:
        with _open(path):
            return True
    except Exception:
        return False


def count_pixels(path: PathLike) -> int:
    """Pixels of an image by its header, 0 if that can't be read."""
    try:
        if not os.path.isfile(path):
            return 0
        with _open(path) as image:
            return image.width * image.height
    except Exception:
        return 0


def image_header(path: PathLike) -> tuple[tuple[int, int], int]:
    """Size of an image and how it is to be turned; no pixels are read.

    Returns:
        (width, height) as stored, and the EXIF orientation: 1 for an image that is upright, to 8.
        A TIFF counts as upright, since it is always turned when it is read.

    Raises:
        ImageError: if it is no image, or one that `read_image` refuses for its size.
    """
    size = _file_size(path)
    try:
        with _open(path) as image:
            _check_pixels(image, MAX_PIXELS)
            # Asking an image that has none takes time, and of a PNG decodes the pixels.
            tagged = image.format != "TIFF" and not _EXIF_SOURCES.isdisjoint(image.info)
            orientation = _orientation(image) if tagged else 1
            return image.size, orientation if orientation in _UPRIGHT else 1
    except Exception as error:
        why = _reason(error, path) if size else "the file is empty"
        raise ImageError(f"{path} cannot be read: {why}; pass a valid JPEG, PNG, ...") from error


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Within, Pillow doesn't warn of odd metadata, nor of large images, for which
    `read_image` has its own limit.

    Warning filters belong to the whole process, so this is for the thread that starts others.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _open(path: PathLike) -> Image.Image:
    """Pillow's image of a file, its header read."""
    if os.fspath(path).lower().endswith(HEIF):
        _register_heif()
    try:
        return Image.open(path, formats=_COMMON)
    except UnidentifiedImageError:
        Image.init()  # loads all plug-ins, at the first call
        return Image.open(path, formats=[kind for kind in Image.OPEN if kind not in _NEVER])


def _check_pixels(image: Image.Image, most: int) -> None:
    count = image.width * image.height
    if not 0 < count <= most:
        limit = f"more than the {most:,} that are decoded" if count > 0 else "so there is none"
        raise ImageError(f"it has {image.width} x {image.height} pixels, {limit}")


def _file_size(path: PathLike) -> int:
    """Bytes of a regular file; raises ImageError for everything else."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        what = "does not exist"
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            what = "is a link that leads in a circle"
        elif os.path.islink(path):
            what = "is a link to a file that does not exist"
        elif not isinstance(error, FileNotFoundError):
            what = f"cannot be opened ({error})"
        raise ImageError(f"{path} {what}; pass the path of an image") from error
    if not stat.S_ISREG(status.st_mode):
        what = "is a directory" if stat.S_ISDIR(status.st_mode) else "is no regular file"
        raise ImageError(f"{path} {what}; pass the path of an image")
    return status.st_size


def _register_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ImageError("HEIC needs the package pillow-heif (pip install pillow-heif)") from None
    register_heif_opener()


def _reason(error: Exception, path: PathLike) -> str:
    """Why a file can't be read, in words that need no knowledge of Pillow."""
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than the {MAX_PIXELS:,} pixels that are decoded"
    if isinstance(error, UnidentifiedImageError):
        kind = _begins_as(path)
        if kind:
            return f"it begins as {kind} but is cut off or damaged"
        return "it is not an image, or of an unknown format"
    if isinstance(error, MemoryError):
        return "it doesn't fit into memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # the system's word, such as "Permission denied"
    text = str(error) or type(error).__name__
    meaning = next(m for pattern, m in _MEANING if re.search(pattern, text, re.IGNORECASE))
    return f"{meaning} ({text})"


def _begins_as(path: PathLike) -> str | None:
    """The format whose signature a file begins with, None if it has none that is known."""
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError:
        return None
    # A format that this Pillow lacks is not among them, or answers with a text.
    tests = {kind: Image.OPEN[kind][1] for kind in _SIGNED if kind in Image.OPEN}
    return next((kind for kind, fits in tests.items() if fits and fits(start) is True), None)


def _orientation(image: Image.Image) -> int:
    """The value of the EXIF tag, 1 (upright) without one."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # Broken metadata is no reason to refuse a sound image.
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image -> one of mode RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_scaled(np.asarray(image)))
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image.convert("RGB")


def _scaled(values: np.ndarray) -> np.ndarray:
    """Grey [H, W] of more than 8 bits -> uint8; Pillow would cut it off at 255."""
    # Integers are 16 bit whatever the type's width; what is no number counts for nothing.
    full = 65535.0
    if values.dtype.kind == "f":
        full = max(1.0, min(255.0, float(np.fmax.reduce(values, axis=None, initial=0))))
    grey = np.empty(values.shape, np.uint8)
    for rows in _strips(*values.shape):
        strip = np.nan_to_num(values[rows].astype(np.float32))
        grey[rows] = np.rint(np.clip(strip / np.float32(full), 0, 1) * 255)
    return grey


def _to_array(image: Image.Image) -> np.ndarray:
    """[H, W, 3] uint8 of an image of mode RGB, which can be written to."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for rows in _strips(*pixels.shape[:2]):
        # Pillow lays out the bytes of all it converts, which would be a second copy.
        box = (0, rows.start, image.width, rows.stop)
        whole = rows.stop - rows.start == image.height
        pixels[rows] = np.asarray(image if whole else image.crop(box))
    return pixels


def _strips(height: int, width: int) -> list[slice]:
    """Slices of rows that hold some two million pixels each."""
    step = max(1, (1 << 21) // width)
    return [slice(y, min(y + step, height)) for y in range(0, height, step)]
