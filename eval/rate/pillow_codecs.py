"""The formats that Pillow writes, and JPEG XL, which a plugin adds to it.

Images are given as arrays, never as files: a plugin could otherwise find out that an image was a JPEG and repack that
file without loss, and metadata could come along.
"""

import io
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
from PIL import Image, features

from eval.rate.codec import Picture, Quality, RateError, Stored


class PillowCodec:
    """A format by its name in Pillow, at whole qualities, with everything that is not in `options` at its default."""

    format: ClassVar[str]
    feature: ClassVar[str]
    """Of Pillow: the library that does the work."""
    qualities: tuple[Quality, ...]
    options: dict[str, Any]

    def encode(self, image: Picture, quality: Quality) -> bytes:
        """What `Image.save` writes to a file of this format."""
        if quality is None or quality != int(quality) or not 0 <= quality <= 100:
            raise RateError(f"{self.format}: expected a whole quality 0 ... 100, found {quality}")
        file = io.BytesIO()
        Image.fromarray(image).save(file, self.format, quality=int(quality), **self.options)
        return file.getvalue()

    def decode(self, stored: Stored) -> Picture:
        """What `Image.open` reads, as RGB."""
        if not isinstance(stored, bytes):
            raise TypeError(f"{self.format}: expected bytes, found {type(stored).__name__}")
        with Image.open(io.BytesIO(stored), formats=[self.format]) as picture:
            return np.array(picture.convert("RGB"))

    def identity(self) -> dict[str, Any]:
        """Pillow's version, the library's, and the options."""
        return {"pillow": version("pillow"), "library": self._library(), "options": self.options}

    def _library(self) -> str:
        found = features.version(self.feature)
        if found is None:
            raise RateError(
                f"{self.format}: this Pillow was built without {self.feature}; install one of its own wheels"
            )
        return f"{self.feature} {found}"


class Jpeg(PillowCodec):
    """JPEG by libjpeg-turbo. Pillow's default halves both sides of the colour planes (4:2:0).

    Args:
        subsampling: `4:4:4` keeps them whole; None: the default.
    """

    format = "JPEG"
    feature = "libjpeg_turbo"
    qualities: tuple[Quality, ...] = (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95)

    def __init__(self, subsampling: str | None = None) -> None:
        self.options = {} if subsampling is None else {"subsampling": subsampling}


class WebP(PillowCodec):
    """Lossy WebP by libwebp; the format knows only 4:2:0."""

    format = "WEBP"
    feature = "webp"
    qualities: tuple[Quality, ...] = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)

    def __init__(self) -> None:
        self.options = {}


class Avif(PillowCodec):
    """AVIF by libavif at its default speed of 6; Pillow's default is 4:2:0.

    Args:
        subsampling: `4:4:4`; None: the default.
    """

    format = "AVIF"
    feature = "avif"
    qualities: tuple[Quality, ...] = (5, 10, 20, 30, 40, 50, 60, 70, 80, 90)

    def __init__(self, subsampling: str | None = None) -> None:
        self.options = {} if subsampling is None else {"subsampling": subsampling}


class JpegXL(PillowCodec):
    """JPEG XL by libjxl at its default effort of 7, in XYB colours, which are not subsampled.

    Raises:
        RateError: pillow-jxl-plugin is not installed.
    """

    format = "JXL"
    qualities: tuple[Quality, ...] = (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)

    def __init__(self) -> None:
        register_jpeg_xl()
        self.options = {}

    def _library(self) -> str:
        return f"pillow-jxl-plugin {version('pillow-jxl-plugin')}"


def register_jpeg_xl() -> None:
    """Make Pillow read and write JPEG XL in this process.

    Raises:
        RateError: pillow-jxl-plugin is not installed.
    """
    try:
        import pillow_jxl  # noqa: F401  # registers itself
    except ImportError as error:
        raise RateError("jxl: needs pillow-jxl-plugin; pip install pillow-jxl-plugin, or leave jxl out") from error
