"""What the index says of rows, put into the samples and batches that a `LatentDataset` gives."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

from latentcodec.store.facts import ShardFacts
from latentcodec.store.samples import LatentBatch, LatentSample

FIELDS = ("id", "original_size", "crop_top_left", "target_size", "caption", "label")
"""Members of a sample that come from the index."""

_SIZES = {"original_size": slice(0, 2), "crop_top_left": slice(2, 4), "target_size": slice(4, 6)}
"""Where each is in `ShardFacts.sizes`."""


def describe(sample: LatentSample, facts: ShardFacts, row: int, mirrored: bool, fields: Collection[str]) -> None:
    """Add these fields to a sample.

    Args:
        facts: of its shard.
        row: of the shard.
    """
    if "id" in fields:
        sample["id"] = facts.ids[row].as_py()
    if not _SIZES.keys().isdisjoint(fields):
        sizes = facts.sizes_of(row, mirrored).tolist()
        if "original_size" in fields:
            sample["original_size"] = (sizes[0], sizes[1])
        if "crop_top_left" in fields:
            sample["crop_top_left"] = (sizes[2], sizes[3])
        if "target_size" in fields:
            sample["target_size"] = (sizes[4], sizes[5])
    if "caption" in fields:
        sample["caption"] = facts.captions[row].as_py()
    if "label" in fields:
        sample["label"] = facts.labels[row].as_py()


def describe_batch(
    batch: LatentBatch,
    rows: Sequence[tuple[ShardFacts, int, bool]],
    fields: Collection[str],
    *,
    all_labelled: bool,
) -> None:
    """Add these fields to a batch.

    Args:
        rows: of each the facts of its shard, the row of the shard, and whether it is mirrored.
        all_labelled: whether every row of the store has a label, so that they fit into a tensor.
    """
    if "id" in fields:
        batch["id"] = [facts.ids[row].as_py() for facts, row, _ in rows]
    if not _SIZES.keys().isdisjoint(fields):
        sizes = torch.from_numpy(np.stack([facts.sizes_of(row, mirrored) for facts, row, mirrored in rows]))
        described: dict[str, Any] = {field: sizes[:, columns] for field, columns in _SIZES.items() if field in fields}
        batch.update(described)  # type: ignore[typeddict-item]  # the names of _SIZES are members
    if "caption" in fields:
        batch["caption"] = [facts.captions[row].as_py() for facts, row, _ in rows]
    if "label" in fields:
        labels = [facts.labels[row].as_py() for facts, row, _ in rows]
        batch["label"] = torch.tensor(labels) if all_labelled else labels
