"""The batches of an epoch and their order: a pure function of the seed and the epoch.

Two shuffles make it. Within a bucket, shards come in a random order, and rows are shuffled inside windows of that order, so
that a reader has few shards in use at a time and nothing grows with the number of rows. Then the batches of all buckets
are merged at random, each bucket's in its own order. A window of all rows is a shuffle of all rows.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from latentcodec.store.buckets import Bucket

_SHARDS, _ROWS, _MERGE = range(3)


class EpochOrder:
    """The batches of one epoch.

    Args:
        buckets: the rows, by shape.
        batch_size: rows of a batch. The last of a bucket has what is left.
        seed, epoch: what the order depends on.
        shuffle: False: bucket by bucket, rows as they are stored.
        window: rows, of all buckets together, that are shuffled among each other. None: all.
        drop_last: without batches of fewer rows.
    """

    def __init__(
        self,
        buckets: Sequence[Bucket],
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        shuffle: bool,
        window: int | None,
        drop_last: bool,
    ) -> None:
        self._batch_size = batch_size
        rows = sum(len(bucket) for bucket in buckets)
        share = 1.0 if window is None else min(window / max(rows, 1), 1.0)
        self._buckets = [
            _ShuffledBucket(bucket, share, batch_size, (seed, epoch, number)) if shuffle else bucket
            for number, bucket in enumerate(buckets)
        ]
        sizes = [len(bucket) // batch_size if drop_last else -(-len(bucket) // batch_size) for bucket in buckets]
        self._bucket_of = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        if shuffle and len(buckets) > 1:
            self._bucket_of = self._bucket_of[_permutation(len(self._bucket_of), seed, epoch, 0, 0, _MERGE)]
        # the how manieth of its bucket each batch is
        by_bucket = np.argsort(self._bucket_of, kind="stable")
        self._place_of = np.empty(len(by_bucket), dtype=np.int64)
        self._place_of[by_bucket] = np.concatenate([np.arange(size) for size in sizes]) if sizes else 0

    def __len__(self) -> int:
        """Batches."""
        return len(self._bucket_of)

    def rows(self, batch: int) -> Int64[np.ndarray, " rows"]:
        """The rows of one batch. Asking in order is fast."""
        bucket = self._buckets[self._bucket_of[batch]]
        start = int(self._place_of[batch]) * self._batch_size
        return bucket.rows(np.arange(start, min(start + self._batch_size, len(bucket))))


class _ShuffledBucket:
    """A bucket in random order.

    Args:
        share: of the bucket's rows, that are shuffled among each other.
        batch_size: that no batch may lie in two windows.
        key: seed, epoch, number of the bucket.
    """

    def __init__(self, bucket: Bucket, share: float, batch_size: int, key: tuple[int, int, int]) -> None:
        seed, epoch, number = key
        self._key = key
        self._bucket = bucket.reordered(_permutation(len(bucket.starts), seed, epoch, number, 0, _SHARDS))
        self._window = max(math.ceil(share * len(bucket) / batch_size), 1) * batch_size
        self._shuffled: tuple[int, Int64[np.ndarray, " window"]] | None = None

    def __len__(self) -> int:
        return len(self._bucket)

    def rows(self, positions: Int64[np.ndarray, " some"]) -> Int64[np.ndarray, " some"]:
        """The rows at these places, all in one window."""
        window = int(positions[0]) // self._window
        first = window * self._window
        if self._shuffled is None or self._shuffled[0] != window:
            seed, epoch, number = self._key
            length = min(self._window, len(self) - first)
            self._shuffled = window, _permutation(length, seed, epoch, number, window, _ROWS)
        return self._bucket.rows(first + self._shuffled[1][positions - first])


def _permutation(
    length: int, seed: int, epoch: int, bucket: int, window: int, purpose: int
) -> Int64[np.ndarray, " {length}"]:
    """A random permutation that stays the same with every numpy, which promises that of raw Philox output only."""
    bits = np.random.Philox(key=[seed, epoch], counter=[0, window, bucket, purpose])
    return np.argsort(bits.random_raw(length), kind="stable")
