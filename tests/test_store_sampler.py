"""The order of batches: every row once, one shape each, the same for any number of processes, gone on with anywhere."""

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_stores import SmallStore, write_store

from latentcodec.store.buckets import Bucket
from latentcodec.store.dataset import LatentDataset
from latentcodec.store.draws import Draw
from latentcodec.store.errors import StoreError, StoreMismatchError
from latentcodec.store.files import StoreFolder
from latentcodec.store.loader import LatentLoader
from latentcodec.store.manifest import MANIFEST_NAME, ShardEntry
from latentcodec.store.order import EpochOrder
from latentcodec.store.sampler import BucketBatchSampler

Batch = list[Draw]


@pytest.fixture(scope="module")
def template() -> SmallStore:
    return write_store(f"memory://{uuid.uuid4().hex}", parts=1)


def listed(template: SmallStore, shards: list[tuple[int, int, int]]) -> LatentDataset:
    """A store of shards of (height, width, rows) that are only listed: a sampler does not look inside."""
    folder = StoreFolder(f"memory://{uuid.uuid4().hex}")
    entries = tuple(ShardEntry(part, *shard, 1, "a" * 64, "b" * 64) for part, shard in enumerate(shards))
    manifest = replace(template.manifest, shards=entries)
    folder.write(MANIFEST_NAME, manifest.to_bytes())
    return LatentDataset(folder.url)


@pytest.fixture(scope="module")
def dataset(template: SmallStore) -> LatentDataset:
    """143 rows of three shapes in seven shards."""
    return listed(template, [(4, 4, 30), (4, 6, 11), (6, 4, 2), (4, 4, 30), (4, 6, 40), (4, 4, 29), (6, 4, 1)])


def sampler_of(dataset: LatentDataset, batch_size: int = 8, **options: Any) -> BucketBatchSampler:
    return BucketBatchSampler(dataset, batch_size, **{"rank": 0, "world_size": 1, **options})


def shape_of(dataset: LatentDataset, row: int) -> tuple[int, int]:
    entry = next(entry for entry, end in zip(dataset.manifest.shards, dataset.manifest.ends, strict=True) if row < end)
    return entry.height, entry.width


def merged(iterators: list[Iterator[Batch]]) -> list[Batch]:
    """Batches of several processes in the order in which they all take one."""
    batches: list[Batch] = []
    while iterators:
        step = [next(iterator, None) for iterator in iterators]
        batches += [batch for batch in step if batch is not None]
        iterators = [iterator for iterator, batch in zip(iterators, step, strict=True) if batch is not None]
    return batches


# ---- every row, one shape


@settings(max_examples=60, deadline=None)
@given(
    shards=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 40)), min_size=1, max_size=8),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
    window=st.none() | st.integers(1, 60),
)
def test_an_epoch_has_every_row_once_in_batches_of_one_shape(
    shards: list[tuple[int, int, int]], batch_size: int, seed: int, epoch: int, shuffle: bool, window: int | None
) -> None:
    starts = np.cumsum([0, *(rows for _, _, rows in shards)])
    shapes = np.repeat(np.arange(len(shards)), [rows for _, _, rows in shards])
    runs: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for start, (height, width, rows) in zip(starts.tolist(), shards, strict=False):
        runs.setdefault((height, width), []).append((start, rows))
    buckets = [Bucket.of_runs(*shape, *np.array(found).T) for shape, found in sorted(runs.items())]
    order = EpochOrder(buckets, batch_size, seed=seed, epoch=epoch, shuffle=shuffle, window=window, drop_last=False)
    batches = [order.rows(batch).tolist() for batch in range(len(order))]
    assert sorted(row for batch in batches for row in batch) == list(range(starts[-1]))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len({shards[shapes[row]][:2] for row in batch}) == 1
    short = Counter(shards[shapes[batch[0]]][:2] for batch in batches if len(batch) < batch_size)
    assert all(count == 1 for count in short.values())
    whole = EpochOrder(buckets, batch_size, seed=seed, epoch=epoch, shuffle=shuffle, window=window, drop_last=True)
    assert all(len(whole.rows(batch)) == batch_size for batch in range(len(whole)))
    assert len(whole) == sum(len(bucket) // batch_size for bucket in buckets)


def test_without_shuffling_rows_come_as_they_are_stored(dataset: LatentDataset) -> None:
    rows = [draw.row for batch in sampler_of(dataset, shuffle=False) for draw in batch]
    assert rows == sorted(range(143), key=lambda row: (shape_of(dataset, row), row))


def test_epochs_and_seeds_differ_and_draws_know_their_epoch(dataset: LatentDataset) -> None:
    sampler = sampler_of(dataset)
    first, second = list(sampler), list(sampler)
    assert [batch[0].epoch for batch in (first[0], second[0])] == [0, 1]
    rows = [
        [draw.row for batch in batches for draw in batch] for batches in (first, second, sampler_of(dataset, seed=1))
    ]
    assert all(a != b for i, a in enumerate(rows) for b in rows[:i])
    assert sorted(rows[1]) == list(range(143))
    assert list(sampler_of(dataset)) == first


def test_the_shuffle_is_even(dataset: LatentDataset) -> None:
    """Over many epochs every row is in every quarter of the epoch equally often, and its neighbours change."""
    epochs = 200
    quarters = np.zeros((143, 4))
    together = 0
    sampler = sampler_of(dataset, batch_size=4)
    for _ in range(epochs):
        for place, batch in enumerate(batches := list(sampler)):
            quarters[[draw.row for draw in batch], 4 * place // len(batches)] += 1
            together += {0, 1} <= {draw.row for draw in batch}
    # three rows of (6, 4) and a short batch move the others by a little
    assert abs(quarters / epochs - 0.25).max() < 5 * (0.25 * 0.75 / epochs) ** 0.5 + 0.02
    assert together < epochs * 3 / 88 * 2


def test_a_window_keeps_shards_together(template: SmallStore) -> None:
    many = listed(template, [(4, 4, 10), (4, 6, 10)] * 50)
    seen = [draw.row // 10 for batch in sampler_of(many, batch_size=5, window=200) for draw in batch]
    in_use = [len(set(seen[start : start + 50])) for start in range(0, 1000, 50)]
    assert max(in_use) <= 30
    assert len(set(seen[:100])) > 12  # and yet mixed
    everywhere = [draw.row // 10 for batch in sampler_of(many, batch_size=5, window=None) for draw in batch]
    assert len(set(everywhere[:50])) > 30
    orders = [[draw.row // 10 for batch in sampler_of(many, window=20, seed=seed) for draw in batch] for seed in (0, 1)]
    assert list(dict.fromkeys(orders[0])) != list(dict.fromkeys(orders[1]))  # shards too come in another order


def test_the_order_never_changes(dataset: LatentDataset) -> None:
    """A state that was saved must mean the same with every version of this library and of numpy."""
    expected = Path(__file__).with_name("expected") / "store_order.json"
    found = [[draw.row for draw in batch] for batch in sampler_of(dataset, seed=17, window=64)]
    assert found == json.loads(expected.read_text())


# ---- processes


@settings(max_examples=40, deadline=None)
@given(batch_size=st.integers(1, 20), world_size=st.integers(1, 5), drop_last=st.booleans(), seed=st.integers(0, 9))
def test_the_order_does_not_depend_on_the_number_of_processes(
    dataset: LatentDataset, batch_size: int, world_size: int, drop_last: bool, seed: int
) -> None:
    options: dict[str, Any] = {"batch_size": batch_size, "drop_last": drop_last, "seed": seed}
    alone = list(sampler_of(dataset, **options))
    samplers = [sampler_of(dataset, **options, rank=rank, world_size=world_size) for rank in range(world_size)]
    lengths = [len(sampler) for sampler in samplers]
    together = merged([iter(sampler) for sampler in samplers])
    assert together == alone[: len(together)]
    assert sum(lengths) == len(together)
    if drop_last:
        assert len(set(lengths)) == 1
        assert len(together) == len(alone) // world_size * world_size
    else:
        assert together == alone
        assert max(lengths) - min(lengths) <= 1
    assert {sampler.place for sampler in samplers} == {(1, 0)}


@settings(max_examples=40, deadline=None)
@given(
    worlds=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    steps=st.integers(0, 7),
    drop_last=st.booleans(),
    window=st.none() | st.integers(1, 200),
)
def test_a_run_goes_on_with_any_number_of_processes(
    dataset: LatentDataset, worlds: list[int], steps: int, drop_last: bool, window: int | None
) -> None:
    """Stopped after some steps, again and again, each time with another number; the last of them ends the epoch."""
    options: dict[str, Any] = {"batch_size": 6, "drop_last": drop_last, "window": window}
    alone = list(sampler_of(dataset, **options))
    state: dict[str, Any] | None = None
    found: list[Batch] = []
    for number, world_size in enumerate(worlds):
        samplers = [sampler_of(dataset, **options, rank=rank, world_size=world_size) for rank in range(world_size)]
        if state is not None:
            for sampler in samplers:
                sampler.load_state_dict(json.loads(json.dumps(state)))
        if samplers[0].place.epoch == 1:
            break
        iterators = [iter(sampler) for sampler in samplers]
        if number < len(worlds) - 1:
            stopped = [[next(iterator) for iterator in iterators] for _ in range(min(steps, len(samplers[-1])))]
            found += [batch for step in stopped for batch in step]
            states = [sampler.state_dict() for sampler in samplers]
            assert all(one == states[0] for one in states)
            state = states[0]
        else:
            found += merged(iterators)
    assert found == alone[: len(found)]
    assert len(alone) - len(found) < (max(worlds) if drop_last else 1)


def test_the_number_of_processes_is_that_of_the_launch(dataset: LatentDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    launched = BucketBatchSampler(dataset, 8)
    assert list(launched) == list(sampler_of(dataset, rank=2, world_size=3))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert list(BucketBatchSampler(dataset, 8)) == list(sampler_of(dataset, rank=1, world_size=2))


# ---- state


def test_iterating_again_goes_on_and_set_epoch_moves(dataset: LatentDataset) -> None:
    whole = list(sampler_of(dataset))
    sampler = sampler_of(dataset)
    iterator = iter(sampler)
    begun = [next(iterator) for _ in range(5)]
    sampler.set_epoch(0)  # as a training loop calls it at the beginning of the epoch that it goes on with
    assert begun + list(sampler) == whole
    assert sampler.place == (1, 0)
    sampler.set_epoch(0)
    assert list(sampler) == whole
    sampler.set_epoch(4)
    assert next(iter(sampler))[0].epoch == 4


def test_a_state_of_another_order_is_refused_with_both_values(dataset: LatentDataset, template: SmallStore) -> None:
    state = sampler_of(dataset, seed=3).state_dict()
    with pytest.raises(StoreMismatchError) as error:
        sampler_of(dataset, seed=4, batch_size=2, drop_last=True).load_state_dict(state)
    for line in ("seed: 3 there, 4 here", "batch_size: 8 there, 2 here", "drop_last: False there, True here"):
        assert line in str(error.value)
    with pytest.raises(StoreMismatchError, match="rows: 143 there, 60 here"):
        sampler_of(listed(template, [(4, 4, 60)]), seed=3).load_state_dict(state)
    with pytest.raises(StoreMismatchError, match="seed: None there, 3 here"):
        sampler_of(dataset, seed=3).load_state_dict({})


def test_a_state_at_the_end_is_the_next_epoch(dataset: LatentDataset) -> None:
    sampler = sampler_of(dataset)
    iterator = iter(sampler)
    for _ in range(len(sampler)):
        next(iterator)
    other = sampler_of(dataset)
    other.load_state_dict(sampler.state_dict())
    assert other.place == (1, 0)


def test_arguments_out_of_range_are_refused(dataset: LatentDataset) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"batch_size": 0}, "expected at least 1, found 0"),
        ({"window": 0}, "expected at least 1, found 8 and 0"),
        ({"seed": -1}, "seed: expected 0 or more, found -1"),
        ({"rank": 2, "world_size": 2}, "rank: expected 0 to 1, found 2"),
        (
            {"batch_size": 200, "drop_last": True},
            "143 rows do not give .* a batch of 200; lower it, or pass drop_last=False",
        ),
    ]
    for options, message in wrong:
        with pytest.raises(StoreError, match=message):
            sampler_of(dataset, **options)


# ---- loader


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_loaders_state_is_of_what_was_handed_over(tmp_path: Path, options: dict[str, Any]) -> None:
    store = write_store(tmp_path, flipped=True)
    dataset = LatentDataset(store.url)

    def loader() -> LatentLoader:
        return LatentLoader(dataset, sampler_of(dataset, batch_size=4), **options)

    plain = sampler_of(dataset, batch_size=4)
    expected = [[dataset.batch(draws) for draws in plain] for _ in range(2)]
    first = loader()
    states = []
    for batch, wanted in zip(first, expected[0], strict=True):
        states.append(first.state_dict())
        assert torch.equal(batch["latents"], wanted["latents"])
        assert batch["id"] == wanted["id"]
    assert first.state_dict() | {"epoch": 1, "batches": 0} == first.state_dict()
    for batch, wanted in zip(first, expected[1], strict=True):  # the next epoch: other rows, other draws
        assert torch.equal(batch["latents"], wanted["latents"])
    for done in (1, 7, len(states)):
        second = loader()
        second.load_state_dict(states[done - 1])
        rest = [batch["row"].tolist() for batch in second]
        wanted_rows = expected[0][done:] or expected[1]
        assert rest == [batch["row"].tolist() for batch in wanted_rows]


def test_a_loader_left_early_goes_on_where_it_was(tmp_path: Path) -> None:
    dataset = LatentDataset(write_store(tmp_path, parts=2).url)
    loader = LatentLoader(dataset, sampler_of(dataset, batch_size=4))
    assert len(loader) == 10
    rows = []
    for batch in loader:
        rows += batch["row"].tolist()
        if len(rows) >= 12:
            break
    rows += [row for batch in loader for row in batch["row"].tolist()]
    assert sorted(rows) == list(range(40))
    loader.set_epoch(5)
    assert loader.state_dict()["epoch"] == 5
