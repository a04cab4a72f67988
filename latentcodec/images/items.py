"""What every source of images has in common: the item, the two protocols, the error."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from latentcodec.images.decode import BrokenImageError, decode_image


class SourceError(ValueError):
    """A source that cannot be opened: missing, empty, or not of the expected form."""


@dataclass(frozen=True, eq=False)
class ImageItem:
    """One image of a source, not yet decoded."""

    id: str
    """Unique inside the source, the same on every run, printable."""
    data: bytes | UInt8[np.ndarray, "height width 3"]
    """The encoded file, or sRGB pixels where the source makes its images."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What the source knows of the image: ``caption``, ``label``, the fields of its JSON, other columns."""

    def decode(self, **options: Any) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels as sRGB; ``options`` go to `decode_image`.

        Raises:
            BrokenImageError: see `decode_image`.
        """
        if isinstance(self.data, np.ndarray):
            return self.data
        return decode_image(self.data, id=self.id, **options)


@runtime_checkable
class ImageSource(Protocol):
    """Images by index. Can be pickled, and used from several threads and DataLoader workers (fork and spawn)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> ImageItem:
        """The image at ``index``; negative counts from the end.

        Raises:
            BrokenImageError: this one cannot be read; the others can.
            IndexError: outside the source.
        """
        ...


@runtime_checkable
class ListedSource(ImageSource, Protocol):
    """A source that can tell whether it is still the same one, without reading its images."""

    def listing(self) -> str:
        """A hash that is the same if and only if the source holds images of the same ids in the same order."""
        ...


@runtime_checkable
class ImageStream(Protocol):
    """Images in order only, for data that is never whole on this machine."""

    def __iter__(self) -> Iterator[ImageItem | BrokenImageError]:
        """Images; one that cannot be read comes as its error, since raising would end the iteration."""
        ...

    def skip(self, count: int) -> "ImageStream":
        """The same stream without its first ``count`` elements, to go on after an interruption."""
        ...


def listing_hash(*parts: object) -> str:
    """A hash, in hexadecimal behind "sha256:", of what the ids of a source follow from."""
    return "sha256:" + hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def checked_index(index: int, length: int) -> int:
    """``index`` as 0 ... length-1; negative counts from the end.

    Raises:
        IndexError: outside. (Iterating over a source by ``for`` relies on it.)
    """
    if not -length <= index < length:
        raise IndexError(f"index: expected {-length} ... {length - 1}, found {index}")
    return index % length
