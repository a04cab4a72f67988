"""Opening a source of images by name: the one entry point for folders, shards, parquet, hub and synthetic images."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentcodec.images.decode import IMAGE_EXTENSIONS, BrokenImageError, printable_path
from latentcodec.images.folder import FolderSource
from latentcodec.images.hub import open_hub
from latentcodec.images.items import ImageItem, ImageSource, ImageStream, SourceError
from latentcodec.images.mixed import MixedSource
from latentcodec.images.parquet import ParquetSource
from latentcodec.images.procedural import open_procedural
from latentcodec.images.skipped import SkippedImages
from latentcodec.images.webdataset import WebDatasetSource

__all__ = [
    "SOURCES",
    "BrokenImageError",
    "ImageItem",
    "ImageSource",
    "ImageStream",
    "MixedSource",
    "SkippedImages",
    "SourceError",
    "open_source",
]

SOURCES: dict[str, Callable[..., ImageSource | ImageStream]] = {
    "folder": FolderSource,
    "webdataset": WebDatasetSource,
    "parquet": ParquetSource,
    "hf": open_hub,
    "procedural": open_procedural,
}
"""Kind of source -> what opens it, called with what follows ``kind:`` in the spec. A new kind is one line here."""


def open_source(spec: str | Path, **options: Any) -> ImageSource | ImageStream:
    """Opens a source of images.

    Args:
        spec: a folder of images; a ``.tar``, or a glob, braces or folder of them; ``.parquet`` likewise;
            ``hf:owner/name[:split]``, ``hf:./folder``; ``procedural[:seed]``. ``kind:path`` with a kind of `SOURCES`
            says what a path is where its form does not. Paths may be fsspec URLs (``s3://...``).
        options: of the kind, see `FolderSource`, `WebDatasetSource`, `ParquetSource`, `open_hub`, `open_procedural`.

    Returns:
        An `ImageSource`; an `ImageStream` for ``hf:`` with ``streaming=True``.

    Raises:
        SourceError: nothing there, nothing in it, or an option that the kind does not have.
    """
    kind, rest = _kind_of(spec)
    opener = SOURCES[kind]
    known = list(inspect.signature(opener).parameters)[1:]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise SourceError(
            f"{printable_path(spec)}: a {kind} source has no option {', '.join(unknown)}; it has {', '.join(known)}"
        )
    return opener(rest, **options)


def _kind_of(spec: str | Path) -> tuple[str, str]:
    """The kind of source, and what to open: by prefix, by the file's ending, or by what a folder holds at its top."""
    path = os.path.expanduser(os.fspath(spec))  # in a YAML file no shell has done it
    prefix, colon, rest = path.partition(":")
    if isinstance(spec, str) and prefix in SOURCES and (colon or prefix == "procedural"):
        return prefix, os.path.expanduser(rest)
    ending = os.path.splitext(path)[1].lower()
    if not os.path.isdir(path):
        if ending == ".tar":
            return "webdataset", path
        return ("parquet" if ending == ".parquet" else "folder"), path
    names = [name.lower() for name in os.listdir(path)]
    if "state.json" in names or "dataset_dict.json" in names:
        return "hf", path
    if not any(name.endswith(IMAGE_EXTENSIONS) for name in names):
        for kind, wanted in (("webdataset", ".tar"), ("parquet", ".parquet")):
            if any(name.endswith(wanted) for name in names):
                return kind, path
    return "folder", path
