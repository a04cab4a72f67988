"""The images that a measurement is made on: read in order, broken ones set aside, the same for every codec of a run."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from latentcodec.images.decode import BrokenImageError
from latentcodec.images.geometry import center_crop, resize_short_side
from latentcodec.images.items import ImageItem, ImageSource, SourceError
from latentcodec.images.procedural import ProceduralSource
from latentcodec.images.skipped import SkippedImages
from latentcodec.images.sources import SOURCES, open_source


@dataclass(frozen=True, eq=False)
class NamedImage:
    """An image and its id in the source."""

    id: str
    pixels: UInt8[np.ndarray, "height width 3"]


class ImageSet:
    """Images of a source, in its order; iterating decodes one at a time.

    Args:
        spec: anything that `open_source` takes.
        limit: only the first so many readable images; None: all.
        size: short side scaled to it (Lanczos) and a square of it cut from the centre; None: whole images.

    Raises:
        SourceError: the source cannot be opened, or has no end and no limit was given.
    """

    def __init__(self, spec: str | Path, *, limit: int | None = None, size: int | None = None) -> None:
        for name, value in (("limit", limit), ("size", size)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1, found {value}")
        self.name = source_name(spec)
        self.limit, self.size = limit, size
        self.skipped = SkippedImages()
        """Images that could not be read, with the reason."""
        self._source = open_source(spec)
        self._hashes: dict[str, str] = {}
        self._broken: set[str] = set()
        if isinstance(self._source, ProceduralSource) and limit is None:
            raise SourceError(f"{spec}: synthetic images have no end; say how many to take")

    def __len__(self) -> int:
        """How many there are at most, broken ones included."""
        if not isinstance(self._source, ImageSource):
            raise TypeError(f"{self.name}: a stream has no length")
        return len(self._source) if self.limit is None else min(self.limit, len(self._source))

    def __iter__(self) -> Iterator[NamedImage]:
        """The readable images; those that are not go to `skipped`, once however often this is repeated.

        Raises:
            SourceError: not one could be read.
        """
        taken = 0
        for read in self._items():
            if self.limit is not None and taken == self.limit:
                return
            try:
                if isinstance(read, BrokenImageError):
                    raise read
                pixels = self._prepared(read)
            except BrokenImageError as error:
                self._skip(error)
                continue
            self._hashes[read.id] = pixel_hash(pixels)
            taken += 1
            yield NamedImage(read.id, pixels)
        if not taken:
            raise SourceError(f"{self.name}: no image could be read. {self.skipped.summary()}")

    @property
    def digest(self) -> str:
        """Identity of the images read so far: of their ids and pixels, in any order."""
        lines = "".join(f"{id}\0{pixels}\n" for id, pixels in sorted(self._hashes.items()))
        return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"

    @property
    def pixels_digest(self) -> str:
        """As `digest`, but of the pixels alone: the same wherever the images lie and whatever they are called."""
        lines = "".join(f"{pixels}\n" for pixels in sorted(self._hashes.values()))
        return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"

    def _skip(self, error: BrokenImageError) -> None:
        if error.id not in self._broken:
            self._broken.add(error.id)
            self.skipped.add(error.id, error.reason)

    def _items(self) -> Iterator[ImageItem | BrokenImageError]:
        if not isinstance(self._source, ImageSource):
            yield from self._source
            return
        for index in range(len(self._source)):
            try:
                yield self._source[index]
            except BrokenImageError as error:
                yield error

    def _prepared(self, item: ImageItem) -> UInt8[np.ndarray, "height width 3"]:
        if self.size is None:
            return item.decode()
        image = resize_short_side(item.decode(), self.size)
        return center_crop(image, self.size, self.size)


def pixel_hash(pixels: UInt8[np.ndarray, "height width 3"]) -> str:
    """sha256 of an image's shape and pixels, in hexadecimal."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def source_name(spec: str | Path) -> str:
    """How results name a source: a hub name as it is, a path by its last part, so that no machine's paths are told."""
    text = os.fspath(spec)
    kind, colon, rest = text.partition(":")
    if not colon or kind not in SOURCES:
        return Path(text).expanduser().resolve().name
    return Path(rest).expanduser().resolve().name if os.path.exists(os.path.expanduser(rest)) else text
