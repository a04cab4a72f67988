"""Any image file to sRGB ``uint8``.

What is honoured: EXIF orientation, ICC profiles, CMYK, 16-bit and float samples, palettes, transparency, the first
frame of an animation. What is not: PNG ``gAMA`` and HDR signalling (such files are read as sRGB).
"""

import errno
import importlib.util
import logging
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import (  # the plugins register themselves when imported
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    QoiImagePlugin,  # noqa: F401
    TgaImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from latentcodec.images.color import to_srgb

if importlib.util.find_spec("pillow_jxl"):
    import pillow_jxl  # noqa: F401  (pip install pillow-jxl-plugin: JPEG XL for Pillow)

logger = logging.getLogger(__name__)

# An allow-list: some of Pillow's other readers start programs (EPS) or guess at files without a signature.
_WANTED_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "JXL", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "QOI", "TGA")
FORMATS: tuple[str, ...] = tuple(name for name in _WANTED_FORMATS if name in Image.OPEN)

IMAGE_EXTENSIONS: tuple[str, ...] = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".jxl", ".gif", ".tif", ".tiff", ".bmp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".qoi", ".tga"),
)

# What Pillow's readers raise on damaged input. MemoryError is absent: that is the machine's state, not the image's.
_READER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, AttributeError),
    *(RuntimeError, AssertionError, struct.error, zlib.error),
)
_MACHINE_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_TRANSPOSE[orientation] for orientation in (5, 6, 7, 8)}
"""Those that exchange height and width."""


class BrokenImageError(ValueError):
    """An image that cannot be read.

    Attributes:
        id: the image's id in its source, or its path.
        reason: ``"<kind>"`` or ``"<kind>: <detail>"``; the kind is one of a few fixed phrases, so reasons can be
            counted by it.
    """

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(id, reason)  # both in args, so that the error survives pickling between processes
        self.id = id
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.id}: {self.reason}"


def decode_image(
    data: bytes | str | Path,
    *,
    id: str | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int = 89_478_485,
    draft_size: int | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes one image, upright, as sRGB.

    Args:
        data: the encoded bytes, or the path of a file.
        id: how errors name the image; by default its path.
        background: sRGB colour that transparent images are laid over, once, in sRGB values as browsers do.
        max_pixels: larger images are refused from their header (JPEG XL: after decoding, its plugin reads both at
            once). Pillow's own limit, twice ``PIL.Image.MAX_IMAGE_PIXELS``, holds besides.
        draft_size: the short side in pixels that the caller will reduce the image to. A JPEG is then decoded at 1/2,
            1/4 or 1/8 of its size, several times faster, its short side never below ``draft_size``. Others ignore it.

    Returns:
        ``uint8 [height, width, 3]``, contiguous and writable.

    Raises:
        BrokenImageError: missing, empty, truncated, too large, or not an image.
    """
    _check_draft_size(draft_size)
    return OpenImage(data, id=id, max_pixels=max_pixels).pixels(background=background, draft_size=draft_size)


class OpenImage:
    """An image whose size is known already and whose pixels can be had once, for callers who decide by the size how to
    decode. JPEGs are only decoded for their pixels; other formats at once.

    Args:
        data, id, max_pixels: see `decode_image`.

    Raises:
        BrokenImageError: see `decode_image`.
    """

    def __init__(self, data: bytes | str | Path, *, id: str | None = None, max_pixels: int = 89_478_485) -> None:
        if isinstance(data, bytes):
            self._name = id or "<bytes>"
        else:
            self._name = id or printable_path(data)
            data = read_file(data, self._name)
        with _pillow_warnings_ignored():
            self._image = _open(data, self._name, max_pixels)
            if not isinstance(self._image, JpegImagePlugin.JpegImageFile):
                self._load()  # a PNG may say its orientation behind the pixels
            self._transpose = _orientation(self._image, self._name)
        sides = self._image.size if self._transpose in _SIDEWAYS else self._image.size[::-1]
        self.height, self.width = sides
        """Of the upright image, in pixels, whatever ``draft_size`` makes of it."""

    def pixels(
        self, *, background: tuple[int, int, int] = (255, 255, 255), draft_size: int | None = None
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The image, see `decode_image`. To be called once."""
        _check_draft_size(draft_size)
        with _pillow_warnings_ignored():
            if draft_size is not None:
                self._image.draft(None, (draft_size, draft_size))
            self._load()
            try:
                upright = self._image if self._transpose is None else self._image.transpose(self._transpose)
                return np.array(to_srgb(upright, background, self._name))
            except (*_READER_ERRORS, Image.DecompressionBombError) as error:
                raise _damaged(self._name, error) from error

    def _load(self) -> None:
        try:
            self._image.load()
        except (*_READER_ERRORS, Image.DecompressionBombError) as error:
            raise _damaged(self._name, error) from error


def _check_draft_size(draft_size: int | None) -> None:
    if draft_size is not None and draft_size < 1:
        raise ValueError(f"draft_size: expected a positive number of pixels, found {draft_size}")


def printable_path(path: str | Path) -> str:
    """The path as text that can always be printed and written as UTF-8; bytes that are not UTF-8 become ``\\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_file(path: str | Path, id: str) -> bytes:
    """The whole file.

    Raises:
        BrokenImageError: it cannot be read, and the fault is the file's; or it is a pipe or device, which may block.
        OSError: out of file handles or memory: no fault of this image, so it is not to be skipped.
    """
    try:
        if not stat.S_ISREG(mode := os.stat(path).st_mode) and not stat.S_ISDIR(mode):
            raise BrokenImageError(id, "cannot be opened: a pipe, socket or device, not a file")
        return Path(path).read_bytes()
    except OSError as error:
        if error.errno in _MACHINE_ERRNOS:
            raise
        raise BrokenImageError(id, f"cannot be opened: {error.strerror or error}") from error


def _open(data: bytes, name: str, max_pixels: int) -> ImageFile.ImageFile:
    """Reads the header only (except JPEG XL) and refuses what is too large."""
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise BrokenImageError(name, _unknown(data)) from error
    except Image.DecompressionBombError as error:
        raise BrokenImageError(name, f"too large: {error} Pillow's limit is PIL.Image.MAX_IMAGE_PIXELS.") from error
    except _READER_ERRORS as error:
        raise _damaged(name, error) from error
    width, height = image.size
    if width * height > max_pixels:
        raise BrokenImageError(
            name, f"too large: {width} x {height} = {width * height} pixels, max_pixels is {max_pixels}"
        )
    return image


def _orientation(image: Image.Image, name: str) -> Image.Transpose | None:
    """What makes the image upright. EXIF that cannot be read counts as absent: it is no reason to lose the image."""
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return None  # the decoder has turned it already; only JPEGs recompressed as JPEG XL come as they were
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except _READER_ERRORS as error:
        logger.info("%s: EXIF ignored, it cannot be read: %s", name, _words(error))
        return None
    return _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None


def _damaged(name: str, error: BaseException) -> BrokenImageError:
    return BrokenImageError(name, f"damaged or truncated: {_words(error)}")


def _unknown(data: bytes) -> str:
    """Why no reader took these bytes, in words that tell a failed download from a missing decoder."""
    head = data[:64]
    if not data:
        return "empty file"
    if not data.strip(b"\0"):
        return f"unknown format: {len(data)} zero bytes"
    for name in FORMATS:
        recognises = Image.OPEN[name][1]
        claimed = recognises(head[:16].ljust(16, b"\0")) if recognises else False
        if isinstance(claimed, str):  # Pillow's words for a format that it was built without
            return f"unknown format: {claimed}"
        if claimed:
            return f"damaged or truncated: it begins as {name}, but its header cannot be read"
    if head[:2] == b"\xff\x0a" or head[4:8] == b"JXL ":
        return "unknown format: JPEG XL, which needs `pip install pillow-jxl-plugin`"
    if head.isascii() and head.decode("ascii").replace("\n", " ").replace("\r", " ").replace("\t", " ").isprintable():
        return f"unknown format: text, starting {head[:24].decode('ascii')!r}"
    return f"unknown format: starts with bytes {head[:8].hex(' ')}; expected one of {', '.join(FORMATS)}"


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


# Pillow warns about trifles (odd EXIF, large but allowed sizes). `warnings.catch_warnings` alone is not safe with
# threads: interleaved exits can leave its filters behind. So the first thread in saves and the last one out restores.
_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_context = warnings.catch_warnings()


@contextmanager
def _pillow_warnings_ignored() -> Iterator[None]:
    global _quiet_depth, _quiet_context
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_context = warnings.catch_warnings()
            _quiet_context.__enter__()
            warnings.filterwarnings("ignore", module=r"(PIL|pillow_jxl)\b")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_context.__exit__(None, None, None)


def _new_lock_after_fork() -> None:
    """A fork may copy the lock while another thread holds it; that thread does not exist in the child."""
    global _quiet_lock
    _quiet_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock_after_fork)
