"""Whether one shard is whole, and what its manifest entry says it is."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import torch

from latentcodec.store.errors import StoreDamagedError
from latentcodec.store.files import StoreFolder
from latentcodec.store.index import read_index
from latentcodec.store.manifest import ShardEntry
from latentcodec.store.settings import Settings
from latentcodec.store.shards import DTYPES, Shard

_CHUNK = 2**24
"""Bytes that are read at once."""


@dataclass(frozen=True)
class CheckedShard:
    """What came of it."""

    problems: tuple[tuple[str, str], ...]
    """(object, what was expected and found)."""
    items: list[int] | None
    """The source's images that its rows are of; None if the index cannot be trusted."""


def check_shard(
    folder: StoreFolder, settings: Settings, entry: ShardEntry, *, advance: Callable[[int], None]
) -> CheckedShard:
    """Look at every byte of both files of a shard.

    Args:
        settings: of the store.
        advance: called with the bytes that were read since.
    """
    problems: list[tuple[str, str]] = []
    items = None
    whole = _hash_problem(folder, entry.path, entry.sha256, entry.bytes, advance)
    if whole is not None:
        problems.append((entry.path, whole))
    index = _hash_problem(folder, entry.index_path, entry.index_sha256, None, lambda count: None)
    if index is not None:
        problems.append((entry.index_path, index))
    # what has the right hash is as it was written; now whether it was written right
    try:
        table = read_index(folder, entry) if index is None else None
        if table is not None:
            items = table.column("item").to_pylist()
            problems += ((entry.index_path, found) for found in _index_problems(table, settings, entry))
        if whole is None:
            problems += ((entry.path, found) for found in _value_problems(folder, settings, entry, table))
    except StoreDamagedError as error:
        problems.append((entry.name, str(error)))
    return CheckedShard(tuple(problems), items)


def _hash_problem(
    folder: StoreFolder, name: str, expected: str, size: int | None, advance: Callable[[int], None]
) -> str | None:
    """What is wrong with an object's bytes."""
    try:
        found_size = folder.size(name)
        if size is not None and found_size != size:
            return f"expected {size} bytes, found {found_size}"
        digest = hashlib.sha256()
        for start in range(0, found_size, _CHUNK):
            data = folder.read(name, start, min(start + _CHUNK, found_size))
            digest.update(data)
            advance(len(data))
    except StoreDamagedError as error:
        return str(error)
    return None if digest.hexdigest() == expected else f"expected SHA-256 {expected}, found {digest.hexdigest()}"


def _index_problems(table: pa.Table, settings: Settings, entry: ShardEntry) -> Iterator[str]:
    if len(set(table.column("id").to_pylist())) != len(table):
        yield "expected ids that differ, found some twice"
    if not entry.native:
        wrong = sum(shape != (entry.height, entry.width) for shape in _latent_shapes(table, settings))
        if wrong:
            yield f"expected boxes that give latents of {entry.height} x {entry.width}, found {wrong} others"


def _value_problems(
    folder: StoreFolder, settings: Settings, entry: ShardEntry, table: pa.Table | None
) -> Iterator[str]:
    """Type, shape and finiteness of the tensors."""
    shard = Shard(folder, entry, settings.values)
    dtype = DTYPES[settings.dtype][0]
    stored = settings.channels * (2 if settings.values == "moments" else 1)
    shapes = _latent_shapes(table, settings) if table is not None and entry.native else None
    if shard.flipped != settings.flipped:
        yield f"mirrored images: expected {settings.flipped}, found {shard.flipped}"
    for flipped in {False, shard.flipped}:
        for start, stop in _chunks(shard, entry):
            values = (
                shard.row(start, flipped=flipped)[None] if entry.native else shard.rows(start, stop, flipped=flipped)
            )
            expected = shapes[start] if shapes is not None else tuple(values.shape[2:])
            if values.dtype != dtype or tuple(values.shape[1:]) != (stored, *expected):
                yield (
                    f"row {start}: expected {dtype} of {[stored, *expected]}, found {values.dtype} of "
                    f"{list(values.shape[1:])}"
                )
                break
            wrong = ~torch.isfinite(values).flatten(1).all(dim=1)
            if wrong.any():
                yield f"row {start + int(wrong.nonzero()[0])}: expected finite values, found NaN or infinity"
                break


def _latent_shapes(table: pa.Table, settings: Settings) -> list[tuple[int, int]]:
    """What the boxes of the index give."""
    sides = (table.column(name).to_pylist() for name in ("crop_height", "crop_width"))
    return [(-(-height // settings.factor), -(-width // settings.factor)) for height, width in zip(*sides, strict=True)]


def _chunks(shard: Shard, entry: ShardEntry) -> Iterator[tuple[int, int]]:
    """First and last rows (exclusive) to read at once; one by one where their shapes differ."""
    step = 1 if entry.native else max(_CHUNK * len(shard) // max(entry.bytes, 1), 1)
    for start in range(0, len(shard), step):
        yield start, min(start + step, len(shard))
