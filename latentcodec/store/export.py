"""A store in a form that other libraries read: one file for each shard, each whole or absent, so that it can be gone on with."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from latentcodec.store.errors import StoreError, StoreMismatchError
from latentcodec.store.export_formats import EXPORT_FORMATS, ExportedShard
from latentcodec.store.files import StoreFolder
from latentcodec.store.index import IndexRow, read_index
from latentcodec.store.launch import Launch
from latentcodec.store.manifest import Manifest, ShardEntry, read_manifest
from latentcodec.store.shards import FLIPPED, Shard

DESCRIPTION_NAME = "export.json"

_DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class ExportOptions:
    """What to write."""

    format: str
    """One of `EXPORT_FORMATS`."""
    values: Literal["stored", "latents"] = "stored"
    """What the store holds: raw moments or means. Or latents: the mean, scaled for a diffusion model."""
    dtype: Literal["auto", "float32", "float16"] = "auto"
    """Of the values. auto: float16 where the store's values are in it and kept as they are, else float32, which holds
    bfloat16 (that numpy does not have) exactly."""

    def __post_init__(self) -> None:
        if self.format not in EXPORT_FORMATS:
            raise StoreError(f"to: expected one of {', '.join(EXPORT_FORMATS)}, found {self.format!r}")


def export(
    store: StoreFolder,
    out: StoreFolder,
    options: ExportOptions,
    *,
    launch: Launch | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> dict[str, Any]:
    """Write a store into another folder, or what is missing there.

    Besides the files there is `export.json`, which says what the values are and how they are scaled.

    Args:
        store: complete.
        out: a new folder or URL, or one that was begun with the same options.
        launch: this process among several that share the work.
        progress: called after each file with its rows; files that are there already included.

    Returns:
        What `export.json` says.

    Raises:
        StoreMismatchError: `out` has other things in it.
        StoreDamagedError: of the store.
        StoreError: values that float16 cannot hold.
    """
    manifest, launch = read_manifest(store), launch or Launch()
    description = _describe(manifest, options)
    _begin(out, description)
    first_row = 0
    for number, entry in enumerate(manifest.shards):
        name = f"{number:06d}{EXPORT_FORMATS[options.format].ending}"
        if number % launch.size == launch.rank:
            if not out.exists(name):
                shard = _read(store, manifest, entry, first_row, options)
                out.write(name, EXPORT_FORMATS[options.format].encode(shard))
            progress(entry.rows)
        first_row += entry.rows
    return description


def _describe(manifest: Manifest, options: ExportOptions) -> dict[str, Any]:
    settings = manifest.settings
    return {
        "format": options.format,
        "values": settings.values if options.values == "stored" else "latents",
        "dtype": _dtype(manifest, options),
        "scaled": options.values == "latents",
        "scaling": settings.scaling.to_json(),
        "fingerprint": settings.fingerprint,
        "config": settings.config,
        "preprocessing": settings.preprocessing,
        "flipped": settings.flipped,
        "rows": manifest.rows,
        "files": len(manifest.shards),
        "store": hashlib.sha256(manifest.to_bytes()).hexdigest(),
    }


def _dtype(manifest: Manifest, options: ExportOptions) -> str:
    if options.dtype != "auto":
        return options.dtype
    return "float16" if (options.values, manifest.settings.dtype) == ("stored", "float16") else "float32"


def _begin(out: StoreFolder, description: dict[str, Any]) -> None:
    """Write the description into a new folder, or compare it with that of an old one."""
    if not out.exists(DESCRIPTION_NAME):
        others = out.list("")
        if others and not out.exists(DESCRIPTION_NAME):  # of several processes another may have begun it meanwhile
            raise StoreMismatchError(f"{out}: expected a new folder, found {', '.join(others[:3])} in it; name another")
        out.write(DESCRIPTION_NAME, (json.dumps(description, indent=2) + "\n").encode())
        return
    there = json.loads(out.read(DESCRIPTION_NAME))
    differing = [key for key in description if there.get(key) != description[key]]
    if differing:
        lines = "".join(f"\n  {key}: {there.get(key)} there, {description[key]} here" for key in differing)
        raise StoreMismatchError(f"{out} is another export:{lines}\nname another folder")


def _read(
    store: StoreFolder, manifest: Manifest, entry: ShardEntry, first_row: int, options: ExportOptions
) -> ExportedShard:
    index = [IndexRow(**fields) for fields in read_index(store, entry).to_pylist()]
    shard = Shard(store, entry, manifest.settings.values)
    dtype = _DTYPES[_dtype(manifest, options)]
    values: dict[str, list[np.ndarray]] = {}
    for flipped in [False, True] if manifest.settings.flipped else [False]:
        name = manifest.settings.values if options.values == "stored" else "latents"
        arrays = values[name + (FLIPPED if flipped else "")] = []
        for row in range(entry.rows):
            stored = shard.row(row, flipped=flipped)
            kept = _latents(stored, manifest) if options.values == "latents" else stored
            arrays.append(_in(dtype, kept, index[row]))
    return ExportedShard(first_row, index, values, not entry.native)


def _latents(stored: Tensor, manifest: Manifest) -> Tensor:
    settings = manifest.settings
    return settings.scaling.apply(stored[: settings.channels].to(torch.float32))


def _in(dtype: torch.dtype, values: Tensor, row: IndexRow) -> np.ndarray:
    rounded = values.to(dtype)
    if not torch.isfinite(rounded).all():
        raise StoreError(
            f"{row.id}: {dtype} cannot hold its values, up to {values.abs().max():.3g}; pass --dtype float32"
        )
    return rounded.numpy()
