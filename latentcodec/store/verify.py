"""Whether a store is whole: every object against its hash, and what they say of each other."""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from latentcodec.store.errors import StoreDamagedError, StoreMismatchError
from latentcodec.store.files import StoreFolder
from latentcodec.store.finish import assemble
from latentcodec.store.manifest import (
    MANIFEST_NAME,
    PARTS_FOLDER,
    SKIPPED_NAME,
    Manifest,
    PartRecord,
    ShardEntry,
    read_manifest,
    record_name,
)
from latentcodec.store.settings import SETTINGS_NAME, read_settings
from latentcodec.store.verify_shard import check_shard

_THREADS = 4
"""Shards that are read at once: hashing leaves the interpreter alone, and storage takes its time."""


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be."""

    object: str
    """Its name in the store."""
    found: str
    """What was expected, and what was found."""


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what is wrong."""

    manifest: Manifest | None
    """None if it is damaged, so that nothing else could be looked at."""
    problems: tuple[Problem, ...]
    leftovers: tuple[str, ...]
    """Objects of interrupted writers. They do no harm."""


def verify(folder: StoreFolder, *, progress: Callable[[int, int], None]) -> Verified:
    """Look at every byte of a complete store.

    The hashes of all objects; whether the manifest is that which follows from the records of the parts; whether the
    tensors and the index of each shard are of the rows, shape and type that the manifest says, all values are finite,
    and every image of the source is in one row or was skipped.

    Args:
        progress: called now and then with the bytes of shards that were read so far, and those of all.

    Raises:
        StoreError: there is no store, or it is not complete.
    """
    try:
        manifest = read_manifest(folder)
    except StoreDamagedError as error:
        if not folder.exists(MANIFEST_NAME):
            raise
        return Verified(None, (Problem(MANIFEST_NAME, str(error)),), ())
    problems = list(_check_settings(folder, manifest))
    records: dict[int, PartRecord] = {}
    for part in range(manifest.settings.parts):
        try:
            records[part] = PartRecord.from_bytes(folder.read(record_name(part)), f"{folder}/{record_name(part)}")
        except StoreDamagedError as error:
            problems.append(Problem(record_name(part), str(error)))
    problems += _check_manifest(folder, manifest, records)
    problems += _check_parts(folder, manifest, records, _Counter(manifest, progress))
    return Verified(manifest, tuple(problems), tuple(_leftovers(folder, manifest)))


def _check_settings(folder: StoreFolder, manifest: Manifest) -> Iterator[Problem]:
    try:
        read_settings(folder).require_same(manifest.settings, f"{folder}/{SETTINGS_NAME}")
    except (StoreDamagedError, StoreMismatchError) as error:
        yield Problem(SETTINGS_NAME, str(error))


def _check_manifest(folder: StoreFolder, manifest: Manifest, records: dict[int, PartRecord]) -> Iterator[Problem]:
    """The manifest and the list of skipped images against the records, if all are there."""
    digest = manifest.settings.digest
    for part, record in records.items():
        if (record.part, record.settings) != (part, digest):
            yield Problem(
                record_name(part),
                f"expected part {part} with settings {digest}, found part {record.part} with {record.settings}",
            )
    try:
        listed = hashlib.sha256(folder.read(SKIPPED_NAME)).hexdigest()
    except StoreDamagedError as error:
        yield Problem(SKIPPED_NAME, str(error))
    else:
        if listed != manifest.skipped_sha256:
            yield Problem(SKIPPED_NAME, f"expected SHA-256 {manifest.skipped_sha256}, found {listed}")
    if len(records) == manifest.settings.parts:
        follows, _ = assemble(manifest.settings, list(records.values()))
        for field in ("shards", "statistics", "versions", "skipped", "skipped_sha256", "captions", "labels"):
            if getattr(follows, field) != getattr(manifest, field):
                yield Problem(MANIFEST_NAME, f"its {field} are others than those of the records in {PARTS_FOLDER}/")


def _check_parts(
    folder: StoreFolder, manifest: Manifest, records: dict[int, PartRecord], advance: "_Counter"
) -> Iterator[Problem]:
    """All shards, part by part."""
    by_part: dict[int, list[ShardEntry]] = {part: [] for part in range(manifest.settings.parts)}
    for entry in manifest.shards:
        by_part.setdefault(entry.part, []).append(entry)
    check = partial(check_shard, folder, manifest.settings, advance=advance)
    with ThreadPoolExecutor(_THREADS) as pool:
        for part, entries in by_part.items():
            items: Counter[int] = Counter()
            readable = True
            for checked in pool.map(check, entries):
                items.update(checked.items or ())
                readable = readable and checked.items is not None
                yield from (Problem(*problem) for problem in checked.problems)
            if readable and part in records:
                yield from _check_items(manifest.settings.part_range(part), items, records[part])


class _Counter:
    """Adds up what several threads have read."""

    def __init__(self, manifest: Manifest, progress: Callable[[int, int], None]) -> None:
        self._done, self._total = 0, sum(entry.bytes for entry in manifest.shards)
        self._progress = progress
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._progress(self._done, self._total)


def _check_items(images: range, items: Counter[int], record: PartRecord) -> Iterator[Problem]:
    """Every image of a part in one row, or skipped."""
    twice = sorted(item for item, count in items.items() if count > 1)
    strange = sorted(item for item in items if item not in images)
    for which, what in ((twice, "in more than one row"), (strange, "of another part")):
        if which:
            yield Problem(record_name(record.part), f"images {_some(which)} are {what}")
    if len(items) + len(record.skipped) != len(images):
        yield Problem(
            record_name(record.part),
            f"expected {len(images)} images, found {len(items)} in rows and {len(record.skipped)} skipped",
        )


def _leftovers(folder: StoreFolder, manifest: Manifest) -> Iterator[str]:
    listed = {path for entry in manifest.shards for path in (entry.path, entry.index_path)}
    listed |= {record_name(part) for part in range(manifest.settings.parts)}
    for place in ("shards", "index", PARTS_FOLDER, "writers"):
        yield from (f"{place}/{name}" for name in folder.list(place) if f"{place}/{name}" not in listed)


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (" and others" if len(numbers) > 5 else "")
