"""Pictures as they go into the page: without loss where there is room, else recompressed, and by how much is said."""

import base64
import io
import math
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from eval.metrics import mean_metric, psnr
from eval.report.inputs import ReportError
from latentcodec.images.decode import decode_image
from latentcodec.images.geometry import resize_short_side

T = TypeVar("T")
Pixels = UInt8[np.ndarray, "height width 3"]

QUALITIES: tuple[int | None, ...] = (None, 95, 90, 85, 80, 75, 70, 60, 50)
"""Of WebP, best first; None is lossless."""
WEBP = "image/webp"
PNG = "image/png"
LEVELS_ROOT = 16
"""A map holds this many times the square root of an error, so that small errors keep their differences."""
_MAP_PIXELS = 2**15
_TRIED = 12
"""Pictures that a quality is tried on."""
_THUMBNAIL_SIDE = 128
_OVERHEAD = 80
"""Bytes of HTML around each picture."""


@dataclass(frozen=True)
class Encoded:
    """A file to put into the page."""

    type: str
    data: bytes


@dataclass
class Gallery:
    """The pictures of a page. Each has a number, under which the page finds it."""

    _items: list[Path | Encoded] = field(default_factory=list)

    def add_photo(self, path: Path) -> int:
        """A picture that may be recompressed."""
        self._items.append(path)
        return len(self._items) - 1

    def add_exact(self, pixels: UInt8[np.ndarray, "height width *channels"]) -> int:
        """A picture that is small and must stay as it is."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
        self._items.append(Encoded(PNG, buffer.getvalue()))
        return len(self._items) - 1

    def encode(self, budget: int) -> "EncodedGallery":
        """All of them, in at most `budget` bytes of the page.

        Raises:
            ReportError: even the lowest quality takes more.
            BrokenImageError: a file cannot be read.
        """
        photos = [item for item in self._items if isinstance(item, Path)]
        exact = [item.data for item in self._items if isinstance(item, Encoded)]
        left = budget - sum(map(_bytes_in_page, exact))
        quality, encoded = _encode_photos(photos, left)
        waiting = iter(encoded)
        files = [item if isinstance(item, Encoded) else Encoded(WEBP, next(waiting)) for item in self._items]
        return EncodedGallery(files, quality, _fidelity(photos, quality))


@dataclass(frozen=True)
class EncodedGallery:
    """What `Gallery.encode` found."""

    files: list[Encoded]
    quality: int | None
    """Of WebP; None: lossless."""
    fidelity: float | None
    """dB of PSNR between recompressed and measured pictures, the mean over some; None: they are the same."""

    def note(self) -> str:
        """What the page says about its pictures."""
        if self.fidelity is None:
            return "The pictures on this page are those that were measured, stored without loss."
        return (
            f"To keep this page small its pictures were recompressed (WebP, quality {self.quality}): they are on average "
            f"{self.fidelity:.1f} dB (PSNR) from those that were measured. All figures, and the maps of differences, are of "
            "the pictures that were measured."
        )


def _bytes_in_page(data: bytes) -> int:
    return 4 * math.ceil(len(data) / 3) + _OVERHEAD


def _encode_photos(paths: Sequence[Path], budget: int) -> tuple[int | None, list[bytes]]:
    """The best quality that fits, and the files. Tries each on a few pictures before it encodes them all."""
    tried = _some(paths)
    for quality in QUALITIES:
        sample = _each(lambda path, quality=quality: _webp(decode_image(path), quality), tried)  # type: ignore[misc]
        if sum(map(_bytes_in_page, sample)) * len(paths) > 1.1 * budget * len(tried):
            continue
        title = f"pictures, WebP {'lossless' if quality is None else quality}"
        encoded = _each(lambda path, quality=quality: _webp(decode_image(path), quality), paths, title)  # type: ignore[misc]
        if sum(map(_bytes_in_page, encoded)) <= budget:
            return quality, encoded
    raise ReportError(
        f"{len(paths)} pictures: expected them in {budget / 1e6:.1f} MB, which WebP of quality {QUALITIES[-1]} does not reach; "
        "allow more with --budget, or show fewer with --images"
    )


def _webp(pixels: Pixels, quality: int | None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if quality is None:
        image.save(buffer, "WEBP", lossless=True, quality=40, method=3, exact=True)
    else:
        # WebP halves the resolution of colour; its sharp conversion keeps most of what that would smear.
        image.save(buffer, "WEBP", quality=quality, method=4, use_sharp_yuv=True)
    return buffer.getvalue()


def _fidelity(paths: Sequence[Path], quality: int | None) -> float | None:
    if quality is None or not paths:
        return None
    scores = [psnr(pixels, decode_image(_webp(pixels, quality))) for pixels in map(decode_image, _some(paths))]
    return mean_metric(scores)


def _some(paths: Sequence[Path]) -> Sequence[Path]:
    return paths if len(paths) <= _TRIED else random.Random(0).sample(paths, _TRIED)


def _each(work: Callable[[Path], T], paths: Sequence[Path], title: str | None = None) -> list[T]:
    """In threads: Pillow encodes and decodes outside Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(work, paths)
        return list(results if title is None else tqdm(results, desc=title, total=len(paths), disable=None))


def error_map(original: Pixels, picture: Pixels) -> UInt8[np.ndarray, "rows columns"]:
    """Local errors: root mean square over square blocks and the three channels, in levels of 255.

    Stored as `LEVELS_ROOT * sqrt(error)`, rounded. Blocks are as large as keeps a map below 32768 values, single pixels
    where that is enough; at the right and the bottom they may be cut.
    """
    height, width = original.shape[:2]
    block = math.ceil(math.sqrt(height * width / _MAP_PIXELS))
    squares = np.square(original.astype(np.float64) - picture.astype(np.float64)).mean(axis=2)
    for axis, side in ((0, height), (1, width)):
        starts = np.arange(0, side, block)
        lengths = np.diff([*starts, side]).reshape((-1, 1) if axis == 0 else (1, -1))
        squares = np.add.reduceat(squares, starts, axis=axis) / lengths
    return np.rint(np.minimum(LEVELS_ROOT * np.sqrt(np.sqrt(squares)), 255)).astype(np.uint8)


def thumbnail(pixels: Pixels) -> str:
    """As a data URI."""
    small = resize_short_side(pixels, _THUMBNAIL_SIDE) if min(pixels.shape[:2]) > _THUMBNAIL_SIDE else pixels
    return f"data:{WEBP};base64,{base64.b64encode(_webp(small, 75)).decode()}"
