"""The last step: the records of all parts to one manifest."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from latentcodec.aside import ASIDE_SUFFIX
from latentcodec.images.skipped import SkippedImages
from latentcodec.store.errors import StoreDamagedError, StoreMismatchError
from latentcodec.store.files import StoreFolder
from latentcodec.store.manifest import MANIFEST_NAME, PARTS_FOLDER, SKIPPED_NAME, Manifest, PartRecord, record_name
from latentcodec.store.settings import Settings
from latentcodec.store.statistics import merged

_READERS = 16
"""Threads that fetch records: object storage takes its time for each, but takes many at once."""


def finish(folder: StoreFolder, settings: Settings, *, tidy: bool) -> Manifest:
    """Write `skipped.jsonl` and then the manifest. Both follow from the records, so doing it twice does no harm.

    Args:
        tidy: first delete what no record lists: leftovers, provided that nobody is making parts.

    Raises:
        StoreDamagedError: a record is missing or damaged.
        StoreMismatchError: a record was made with other settings.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        records = list(pool.map(lambda part: read_record(folder, part), range(settings.parts)))
    for record in records:
        if record.settings != settings.digest:
            raise StoreMismatchError(
                f"{folder}/{record_name(record.part)}: made with settings {record.settings[:12]}..., those of the store are "
                f"{settings.digest[:12]}...; delete this record and run the command again"
            )
    manifest, skipped = assemble(settings, records)
    if tidy:
        _clear_away(folder, manifest)
    folder.write(SKIPPED_NAME, skipped)
    folder.write(MANIFEST_NAME, manifest.to_bytes())
    return manifest


def assemble(settings: Settings, records: Sequence[PartRecord]) -> tuple[Manifest, bytes]:
    """The manifest that follows from the records of all parts, and `skipped.jsonl`."""
    skipped = SkippedImages()
    for record in records:
        for id, reason in record.skipped:
            skipped.add(id, reason)
    listed = skipped.to_jsonl()
    manifest = Manifest(
        settings=settings,
        versions=_distinct(records),
        shards=tuple(shard for record in records for shard in record.shards),
        statistics=merged(record.statistics for record in records),
        skipped=skipped.counts,
        skipped_sha256=hashlib.sha256(listed).hexdigest(),
        captions=sum(record.captions for record in records),
        labels=sum(record.labels for record in records),
    )
    return manifest, listed


def read_record(folder: StoreFolder, part: int) -> PartRecord:
    """The record of a complete part.

    Raises:
        StoreDamagedError: it is missing or damaged.
    """
    name = record_name(part)
    try:
        return PartRecord.from_bytes(folder.read(name), f"{folder}/{name}")
    except StoreDamagedError as error:
        raise StoreDamagedError(
            f"{error}; delete it and run `latentcodec precompute` again: it makes this part anew"
        ) from error


def _clear_away(folder: StoreFolder, manifest: Manifest) -> None:
    """Delete what interrupted writers have left: shards that no record lists, halves of files.

    Of the store's own folder only the latter: a README, say, that somebody has put there is not ours to take.
    """
    expected = {
        "shards": {entry.path for entry in manifest.shards},
        "index": {entry.index_path for entry in manifest.shards},
        PARTS_FOLDER: {record_name(part) for part in range(manifest.settings.parts)},
    }
    for place, names in expected.items():
        for name in folder.list(place):
            if f"{place}/{name}" not in names:
                folder.delete(f"{place}/{name}")
    for name in folder.list(""):
        if name.endswith(ASIDE_SUFFIX):
            folder.delete(name)


def _distinct(records: Sequence[PartRecord]) -> tuple[dict[str, str], ...]:
    """Each set of versions once, in the order of the parts."""
    return tuple(dict(pairs) for pairs in dict.fromkeys(tuple(record.versions.items()) for record in records))
