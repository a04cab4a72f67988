"""A DataLoader over a store that knows where training is, however far its workers have read ahead."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from latentcodec.store.dataset import LatentDataset
from latentcodec.store.draws import Draw
from latentcodec.store.sampler import BucketBatchSampler
from latentcodec.store.samples import LatentBatch


class LatentLoader(DataLoader[LatentBatch]):
    """Batches of a store. Iterating it is one epoch, or what is left of one; the next time it is the next epoch.

    Args:
        dataset: the store.
        sampler: of that store. It is the loader's from now on.
        **options: of `DataLoader`: `num_workers`, `pin_memory`, `persistent_workers`, `prefetch_factor` and so on.
    """

    def __init__(self, dataset: LatentDataset, sampler: BucketBatchSampler, **options: Any) -> None:
        # without a batch size a DataLoader takes what the sampler gives for an index, and what the dataset gives for a batch
        super().__init__(_Batches(dataset), sampler=sampler, batch_size=None, collate_fn=_as_it_is, **options)  # type: ignore[arg-type]
        self._batches = sampler
        self._place = sampler.place

    def __iter__(self) -> Iterator[LatentBatch]:  # type: ignore[override]  # a generator, so that it can count
        self._batches.place = self._place
        for batch in super().__iter__():
            self._place = self._batches.after(self._place)
            yield batch
        self._place = self._batches.place

    def set_epoch(self, epoch: int) -> None:
        """See `BucketBatchSampler.set_epoch`."""
        self._batches.place = self._place
        self._batches.set_epoch(epoch)
        self._place = self._batches.place

    def state_dict(self) -> dict[str, Any]:
        """That of the sampler, as of the batches that were handed over. Batches read ahead are not among them."""
        return {**self._batches.state_dict(), **self._place._asdict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `BucketBatchSampler.load_state_dict`."""
        self._batches.load_state_dict(state)
        self._place = self._batches.place


class _Batches(Dataset[LatentBatch]):
    """A dataset whose indices are whole batches."""

    def __init__(self, dataset: LatentDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, draws: Sequence[Draw]) -> LatentBatch:
        return self._dataset.batch(draws)


def _as_it_is(batch: LatentBatch) -> LatentBatch:
    return batch
