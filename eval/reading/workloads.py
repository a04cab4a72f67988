"""Reading every row once in random order: from a store, and from a .npy file for each image, as scripts do.

Each call opens the store anew. Where draws are not computed both sides read values of the same number of bytes: the store
bfloat16 moments, the files float32 draws. The files hold nothing else; of the store the values alone are read, or
everything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from latentcodec.store.dataset import LatentDataset

BATCH = 64

Work = Callable[[], int]


@dataclass(frozen=True)
class Task:
    """What both sides are given."""

    folder: Path
    """From `write_store_and_files`."""
    rows: int

    def order(self) -> list[int]:
        """Every row once, at random."""
        return np.random.default_rng(0).permutation(self.rows).tolist()

    def batches(self) -> list[list[int]]:
        """The same, in batches."""
        order = self.order()
        return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def rows_of_store(task: Task, *, fields: tuple[str, ...] | None) -> Work:
    """Means, one by one."""
    order = task.order()

    def work() -> int:
        dataset = LatentDataset(task.folder / "store", sample=False, fields=fields)
        return sum(len(dataset[row]["latents"]) > 0 for row in order)

    return work


def rows_of_files(task: Task) -> Work:
    """Values, one by one."""
    order = task.order()

    def work() -> int:
        return sum(len(torch.from_numpy(np.load(task.folder / "drawn" / f"{row}.npy"))) > 0 for row in order)

    return work


def batches_of_store(task: Task, *, sample: bool, fields: tuple[str, ...] | None) -> Work:
    """Batches of means, or of draws."""
    batches = task.batches()

    def work() -> int:
        dataset = LatentDataset(task.folder / "store", sample=sample, fields=fields)
        return sum(len(dataset.batch(rows)["latents"]) for rows in batches)

    return work


def batches_of_files(task: Task) -> Work:
    """Batches of values."""
    batches = task.batches()

    def work() -> int:
        folder = task.folder / "drawn"
        return sum(
            len(torch.stack([torch.from_numpy(np.load(folder / f"{row}.npy")) for row in rows])) for rows in batches
        )

    return work


def draws_of_files(task: Task) -> Work:
    """Batches of draws from moments in files, without a seed for each row."""
    batches = task.batches()

    def work() -> int:
        done = 0
        for rows in batches:
            stacked = torch.stack([torch.from_numpy(np.load(task.folder / "moments" / f"{row}.npy")) for row in rows])
            mean, logvar = stacked.chunk(2, dim=1)
            done += len((mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)) * 0.18215)
        return done

    return work


ROWS: dict[str, tuple[Callable[[Task], Work], Callable[[Task], Work]]] = {
    "values, one by one": (partial(rows_of_store, fields=()), rows_of_files),
    "everything, one by one": (partial(rows_of_store, fields=None), rows_of_files),
    f"values, batches of {BATCH}": (partial(batches_of_store, sample=False, fields=()), batches_of_files),
    f"everything, batches of {BATCH}": (partial(batches_of_store, sample=False, fields=None), batches_of_files),
    f"draws, batches of {BATCH}": (partial(batches_of_store, sample=True, fields=()), draws_of_files),
}
"""Name of a row of the table -> our side, the usual way."""
