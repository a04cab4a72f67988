"""Millions of short strings without millions of Python objects."""

import hashlib
from collections.abc import Iterable

import numpy as np


class PackedStrings:
    """A read-only list of byte strings in one buffer.

    A list of 10^7 paths is 10^7 objects: a gigabyte, pickled one by one for spawned workers, and copied page by page
    in forked ones, because reading an object writes its reference count.
    """

    def __init__(self, strings: Iterable[bytes]) -> None:
        items = list(strings)
        self._ends = np.cumsum([0, *map(len, items)], dtype=np.int64)
        self._buffer = b"".join(items)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected 0 ... {len(self) - 1}, found {index}")
        return self._buffer[self._ends[index] : self._ends[index + 1]]

    def digest(self) -> str:
        """SHA-256, in hexadecimal, that is the same for the same strings in the same order."""
        whole = hashlib.sha256(self._ends.astype("<i8", copy=False).data)
        whole.update(self._buffer)
        return whole.hexdigest()
