"""The shards that a process has open for reading, and what it keeps of their indices: the last used, never all."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from latentcodec.store.facts import ShardFacts
from latentcodec.store.files import StoreFolder
from latentcodec.store.manifest import ShardEntry
from latentcodec.store.shards import Shard, require_one_shape

_MOST_OPEN = 256
"""Shards. On a disk each takes one of the handles that a process may have, of which there are often 1024."""
_MOST_FACTS = 2**28
"""Bytes of what is kept of indices."""
_FETCHES = 32
"""Rows behind a URL that are fetched at once: each takes its time, and they do not get in each other's way."""

T = TypeVar("T")


class OpenShards:
    """Rows of a store in one process. Safe from several threads; after a fork, and in a spawned process, build another.

    Args:
        folder: the store.
        entries: its shards.
        kind: see `Shard`.
    """

    def __init__(self, folder: StoreFolder, entries: Sequence[ShardEntry], kind: str) -> None:
        self._folder, self._entries = folder, entries
        # a shard that goes out of the cache closes itself when the last thread that reads it is done
        self._shards = _Recent(lambda number: Shard(folder, entries[number], kind), lambda shard: 1, _MOST_OPEN)
        self._facts = _Recent(
            lambda number: ShardFacts.read(folder, entries[number]), lambda facts: facts.nbytes, _MOST_FACTS
        )

    def facts(self, shard: int) -> ShardFacts:
        """Of all rows of a shard."""
        return self._facts.get(shard)

    def values(self, shard: int, row: int, mirrored: bool) -> Float[Tensor, "stored height width"]:
        """One row of a shard as it is stored."""
        return self._shards.get(shard).row(row, flipped=mirrored)

    def view(self, shard: int, row: int, mirrored: bool, *, means: bool) -> Float[Tensor, "stored height width"]:
        """The same, to be read at once and not kept: see `Shard.view`."""
        return self._shards.get(shard).view(row, flipped=mirrored, means=means)

    def stacked(
        self, places: Sequence[tuple[int, int, bool]], *, means: bool
    ) -> Float[Tensor, "rows stored height width"]:
        """Several rows: of each the shard, the row in it, and whether the mirrored one.

        Args:
            means: of moments the mean alone.

        Raises:
            ValueError: none, or of different shapes.
        """
        if self._fetchers is not None:
            rows = list(self._fetchers.map(lambda place: self.view(*place, means=means), places))
            require_one_shape(rows)
            return torch.stack(rows)
        groups: dict[tuple[int, bool], list[int]] = {}
        for position, (shard, _, mirrored) in enumerate(places):
            groups.setdefault((shard, mirrored), []).append(position)
        pieces = [
            self._shards.get(shard).gather(
                [places[position][1] for position in positions], flipped=mirrored, means=means
            )
            for (shard, mirrored), positions in groups.items()
        ]
        require_one_shape([piece[0] for piece in pieces])
        if len(pieces) == 1:
            return pieces[0]
        order = [position for positions in groups.values() for position in positions]
        return torch.cat(pieces).index_select(0, torch.tensor(order).argsort())

    @cached_property
    def _fetchers(self) -> ThreadPoolExecutor | None:
        if self._folder.local_path("") is not None:
            return None
        return ThreadPoolExecutor(_FETCHES, thread_name_prefix="store reader")


class _Recent(Generic[T]):
    """Values by number, made when asked for; those asked for last are kept."""

    def __init__(self, make: Callable[[int], T], size: Callable[[T], int], most: int) -> None:
        self._make, self._size, self._most = make, size, most
        self._kept: OrderedDict[int, T] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()

    def get(self, number: int) -> T:
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        value = self._make(number)  # outside the lock: others need not wait; two may make the same, one is kept
        with self._lock:
            if number not in self._kept:
                self._kept[number] = value
                self._total += self._size(value)
                while self._total > self._most and len(self._kept) > 1:
                    self._total -= self._size(self._kept.popitem(last=False)[1])
            return self._kept[number]
