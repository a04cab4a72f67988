"""General compressors on the same integers."""

import io

import numpy as np
import zstandard
from jaxtyping import UInt16
from PIL import Image

from eval.rate.pillow_codecs import register_jpeg_xl
from latentcodec.bitstream.context import Maps

JXL_EFFORT = 9
"""Of libjxl's 1 ... 10; the last one takes far longer for a few bytes."""
ZSTD_LEVEL = 19


class SymbolsError(ValueError):
    """Integers that cannot be compared in this way; the message says what to do."""


def jpeg_xl_bits(integers: Maps) -> float:
    """Lossless JPEG XL: one grey 16-bit image of all channels side by side, or one image for each channel, whichever is
    smaller in total.

    Raises:
        SymbolsError: a span of more than 16 bits.
        RateError: pillow-jxl-plugin is not installed.
    """
    register_jpeg_xl()
    together = len(jpeg_xl(as_grey(tiled(integers))))
    apart = sum(len(jpeg_xl(as_grey(channel))) for channel in integers)
    return 8.0 * min(together, apart)


def zstd_bits(integers: Maps) -> float:
    """zstd of the integers as int16, channel by channel.

    Raises:
        SymbolsError: one does not fit.
    """
    narrow = integers.astype("<i2")
    if (narrow != integers).any():
        raise SymbolsError(f"zstd: {_WIDE}")
    return 8.0 * len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(narrow.tobytes()))


_WIDE = "expected integers that fit into 16 bits, found larger ones; ask for lower qualities"


def tiled(integers: Maps) -> np.ndarray:
    """[channels, height, width] -> [rows height, columns width], as square as it gets without gaps."""
    channels, height, width = integers.shape
    rows = next(count for count in range(int(channels**0.5), 0, -1) if channels % count == 0)
    grid = integers.reshape(rows, channels // rows, height, width)
    return grid.transpose(0, 2, 1, 3).reshape(rows * height, channels // rows * width)


def as_grey(values: np.ndarray) -> UInt16[np.ndarray, "height width"]:
    """Integers as grey levels from 0; that they must be shifted back is not counted.

    Raises:
        SymbolsError: a span of more than 16 bits.
    """
    levels = values - values.min()
    if levels.max() > np.iinfo(np.uint16).max:
        raise SymbolsError(f"jpeg xl: {_WIDE}")
    return levels.astype(np.uint16)


def jpeg_xl(grey: UInt16[np.ndarray, "height width"]) -> bytes:
    """A lossless file."""
    register_jpeg_xl()
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JXL", lossless=True, effort=JXL_EFFORT)
    return file.getvalue()
