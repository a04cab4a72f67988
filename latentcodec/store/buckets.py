"""The rows of a store by the shape of their latents."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int64

from latentcodec.store.facts import ShardFacts
from latentcodec.store.manifest import ShardEntry


@dataclass(frozen=True, eq=False)
class Bucket:
    """All rows whose latents have one shape, as runs of rows that follow each other in the store."""

    height: int
    """Of the latents."""
    width: int
    starts: Int64[np.ndarray, " runs"]
    """First row of each run."""
    ends: Int64[np.ndarray, " runs"]
    """Rows of all runs up to and with each."""

    @classmethod
    def of_runs(
        cls, height: int, width: int, starts: Int64[np.ndarray, " runs"], lengths: Int64[np.ndarray, " runs"]
    ) -> "Bucket":
        """From first rows and lengths, both not empty."""
        return cls(height, width, starts, np.cumsum(lengths))

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def lengths(self) -> Int64[np.ndarray, " runs"]:
        """Rows of each run."""
        return np.diff(self.ends, prepend=0)

    def rows(self, positions: Int64[np.ndarray, " some"]) -> Int64[np.ndarray, " some"]:
        """The rows at these places of the bucket, 0 ... len - 1."""
        runs = np.searchsorted(self.ends, positions, side="right")
        return self.starts[runs] + positions - (self.ends[runs] - self.lengths[runs])

    def reordered(self, order: Int64[np.ndarray, " runs"]) -> "Bucket":
        """With its runs in another order."""
        return Bucket.of_runs(self.height, self.width, self.starts[order], self.lengths[order])


def find_buckets(entries: Sequence[ShardEntry], factor: int, facts: Callable[[int], ShardFacts]) -> tuple[Bucket, ...]:
    """The buckets of a store, by height and width.

    Args:
        entries: its shards.
        factor: pixels to a latent position, along each side.
        facts: of a shard. Asked for where shapes differ within one (native resolution), which takes a while for many rows.
    """
    runs: dict[tuple[int, int], list[tuple[int, int]]] = {}
    first = 0
    for number, entry in enumerate(entries):
        if entry.native:
            for shape, start, length in _native_runs(facts(number), factor):
                runs.setdefault(shape, []).append((first + start, length))
        elif entry.rows:
            runs.setdefault((entry.height, entry.width), []).append((first, entry.rows))
        first += entry.rows
    return tuple(Bucket.of_runs(*shape, *np.array(found, dtype=np.int64).T) for shape, found in sorted(runs.items()))


def _native_runs(facts: ShardFacts, factor: int) -> Iterable[tuple[tuple[int, int], int, int]]:
    """Shape of latents, first row in the shard and number of rows, where rows of one shape follow each other."""
    shapes = -(-facts.sizes[:, 4:] // factor)  # the network pads images to multiples
    changes = 1 + np.flatnonzero((shapes[1:] != shapes[:-1]).any(axis=1))
    for start, end in pairwise([0, *changes.tolist(), len(shapes)]):
        height, width = shapes[start].tolist()
        yield (height, width), start, end - start
