"""Which rows make a batch, for each process of a training run: an order that can be gone on with at any batch."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.data import Sampler

from latentcodec.store.dataset import LatentDataset
from latentcodec.store.draws import Draw
from latentcodec.store.errors import StoreError, StoreMismatchError
from latentcodec.store.launch import Launch
from latentcodec.store.order import EpochOrder

_WINDOW = 2**18


class Place(NamedTuple):
    """Where a run is in the data."""

    epoch: int
    batches: int
    """Of the epoch that are done, by all processes together."""


class BucketBatchSampler(Sampler[list[Draw]]):
    """Batches of rows whose latents have one shape.

    The batches of an epoch stand in one order, which follows from `seed` and the epoch. Of n processes, the first takes
    batches 0, n, 2 n, ..., the second 1, n + 1, ...: so the order does not depend on how many there are, and a run that
    was stopped goes on with any number of them. Iterating goes on from where `state_dict` would say; after the end of an
    epoch, the next iteration is the next epoch.

    Args:
        dataset: a store. The sampler keeps no more of it than which rows have which shape.
        batch_size: rows of a batch, in each process.
        seed: of the order.
        shuffle: False: bucket by bucket, rows as they are stored.
        drop_last: leave out batches of fewer rows, and those at the end of which not every process would get one, so that
            all take equally many steps, as DistributedDataParallel needs it. Else every row comes once in an epoch.
        window: rows that are shuffled among each other, see `latentcodec.store.order`; None: all rows. A process has about
            this many rows' shards in use.
        rank, world_size: this process among those that share the batches. None: as torch.distributed or the environment
            (`accelerate launch`, `torchrun`) says. Do not share them out twice: `accelerator.prepare` would.

    Raises:
        StoreError: arguments out of range, or nothing to give.
    """

    def __init__(
        self,
        dataset: LatentDataset,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        window: int | None = _WINDOW,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        launched = _launched()
        self.rank = launched[0] if rank is None else rank
        self.world_size = launched[1] if world_size is None else world_size
        if batch_size < 1 or (window is not None and window < 1):
            raise StoreError(f"batch_size and window: expected at least 1, found {batch_size} and {window}")
        if seed < 0:
            raise StoreError(f"seed: expected 0 or more, found {seed}")
        if not 0 <= self.rank < self.world_size:
            raise StoreError(f"rank: expected 0 to {self.world_size - 1}, found {self.rank}")
            # what the order of the batches follows from
        self._identity = {
            "store": dataset.manifest.settings.digest, "rows": len(dataset), "seed": seed, "batch_size": batch_size,
            "shuffle": shuffle, "drop_last": drop_last, "window": window,
        }  # fmt: skip
        self._make_order = partial(
            EpochOrder, dataset.buckets, batch_size, seed=seed, shuffle=shuffle, window=window, drop_last=drop_last
        )
        self._drop_last = drop_last
        self._order: tuple[int, EpochOrder] | None = None
        self.place = self._started = Place(0, 0)
        if self._is_over(self.place):
            raise StoreError(
                f"batch_size: {len(dataset)} rows do not give each of {self.world_size} processes a batch of {batch_size}; "
                "lower it" + (", or pass drop_last=False" if drop_last else "")
            )

    def __iter__(self) -> Iterator[list[Draw]]:
        self._started = start = self.place
        order = self._order_of(start.epoch)
        for batch in self._batches(start):
            self.place = self.after(self.place)
            yield [Draw(row, start.epoch) for row in order.rows(batch).tolist()]
        self.place = self._started = Place(start.epoch + 1, 0)

    def __len__(self) -> int:
        """Batches of this process in this epoch, from where it was begun or gone on with."""
        return len(self._batches(self._started))

    def after(self, place: Place) -> Place:
        """Where the run is when every process has done one batch more."""
        return Place(place.epoch, min(place.batches + self.world_size, len(self._order_of(place.epoch))))

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch. In the epoch where it is, it stays where it is."""
        if epoch != self.place.epoch:
            self.place = self._started = Place(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Where it is, and what the order follows from: numbers, text and None."""
        return {**self._identity, **self.place._asdict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another sampler was, with any number of processes.

        Raises:
            StoreMismatchError: its order is another one, because an argument or the store differs; both values are named.
        """
        differing = [key for key, value in self._identity.items() if state.get(key) != value]
        if differing:
            lines = "".join(f"\n  {key}: {state.get(key)} there, {self._identity[key]} here" for key in differing)
            raise StoreMismatchError(f"the state is of a sampler with another order:{lines}\nmake the sampler likewise")
        place = Place(state["epoch"], state["batches"])
        self.place = self._started = Place(place.epoch + 1, 0) if self._is_over(place) else place

    def _batches(self, start: Place) -> range:
        """Those of this process, from there to the end of the epoch."""
        total = len(self._order_of(start.epoch))
        if self._drop_last:
            total -= (total - start.batches) % self.world_size
        return range(start.batches + self.rank, total, self.world_size)

    def _is_over(self, place: Place) -> bool:
        """Whether nothing of the epoch is left for anybody."""
        left = len(self._order_of(place.epoch)) - place.batches
        return left < (self.world_size if self._drop_last else 1)

    def _order_of(self, epoch: int) -> EpochOrder:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._make_order(epoch=epoch)
        return self._order[1]


def _launched() -> tuple[int, int]:
    """This process's number among those that train together, and how many they are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    launch = Launch.from_environment()
    return launch.rank, launch.size
