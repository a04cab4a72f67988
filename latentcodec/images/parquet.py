"""Parquet files with encoded images in a column as a map-style source."""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latentcodec.images.decode import BrokenImageError
from latentcodec.images.items import ImageItem, SourceError, checked_index, listing_hash
from latentcodec.images.paths import find_files, is_url, relative_names
from latentcodec.images.process import PerProcess

_USUAL_NAMES = ("image", "images", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")


class ParquetSource:
    """Images in parquet files, by row.

    The image column is a struct with ``bytes`` (and ``path``), as the `datasets` library writes, or binary. The other
    columns become metadata. An item's id is ``file.parquet:row``.

    A row is read with its whole row group, of which the last few are kept. So rows in order cost little, and rows in
    random order cost a row group each: for shuffled training, webdataset shards or ``hf:folder`` are faster.

    Args:
        path: one file, a glob, braces, or a folder; local or URL.
        column: the image column; by default the only one that can be, or the one with a usual name.
        metadata: whether to read the other columns.

    Raises:
        SourceError: no such file, no rows, not parquet, or no image column.
    """

    def __init__(self, path: str | os.PathLike, *, column: str | None = None, metadata: bool = True) -> None:
        self.files = find_files(os.fspath(path), (".parquet",))
        self._labels = relative_names(self.files)
        self.column = column or ""
        groups: list[tuple[int, int, int]] = []  # file, row group, rows
        for number, file in enumerate(self.files):
            with _open(file) as opened:
                self.column = _image_column(opened.schema_arrow, file, self.column or None)
                counts = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
            groups.extend((number, group, rows) for group, rows in enumerate(counts) if rows)
        if not groups:
            raise SourceError(f"{os.fspath(path)}: expected images, found no rows in {len(self.files)} file(s)")
        self._groups = np.array(groups, dtype=np.int64)
        self._ends = np.cumsum(self._groups[:, 2])
        self._columns = None if metadata else [self.column]
        self._cache = PerProcess(_RowGroups)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> ImageItem:
        index = checked_index(index, len(self))
        position = int(np.searchsorted(self._ends, index, side="right"))
        file, group, rows = (int(value) for value in self._groups[position])
        before = int(self._ends[position]) - rows
        first_of_file = int(np.searchsorted(self._groups[:, 0], file))
        row = index - (int(self._ends[first_of_file - 1]) if first_of_file else 0)
        id = f"{self._labels[file]}:{row}"
        table = self._cache.get().read(self.files[file], group, self._columns)
        values: dict[str, Any] = table.slice(index - before, 1).to_pylist()[0]
        cell = values.pop(self.column)
        return ImageItem(id, image_bytes(cell, id, os.path.dirname(self.files[file])), values)

    def listing(self) -> str:
        """See `ListedSource`."""
        groups = hashlib.sha256(self._groups.astype("<i8", copy=False).data).hexdigest()
        return listing_hash("parquet", groups, *self._labels)


def image_bytes(cell: Any, id: str, folder: str) -> bytes:
    """The encoded image in a cell: bytes, or a `datasets` image ``{"bytes", "path"}``.

    Args:
        folder: what a relative ``path`` without bytes is relative to.

    Raises:
        BrokenImageError: the cell is empty, or names a file that cannot be read.
    """
    if isinstance(cell, bytes):
        return cell
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (None, None)
    if data is not None:
        return data
    if path is None:
        raise BrokenImageError(id, "no image in the row")
    try:
        with fsspec.open(path if is_url(path) else os.path.join(folder, path), "rb") as file:
            return file.read()
    except OSError as error:
        raise BrokenImageError(id, f"cannot be opened: {path} is not in the row but named by it: {error}") from error


def _open(file: str) -> pq.ParquetFile:
    try:
        # pyarrow closes what it opened itself; a handle from fsspec is closed with the reader
        return pq.ParquetFile(fsspec.open(file, "rb").open() if is_url(file) else file)
    except pa.ArrowInvalid as error:
        raise SourceError(f"{file}: expected a parquet file, found: {error}") from error


def _image_column(schema: pa.Schema, file: str, wanted: str | None) -> str:
    images = [field.name for field in schema if _holds_images(field.type)]
    if wanted is not None:
        if wanted in images:
            return wanted
        raise SourceError(f"{file}: column {wanted!r} holds no images. Its columns: {_listed(schema)}")
    usual = [name for name in _USUAL_NAMES if name in images]
    if len(images) == 1 or usual:
        return usual[0] if usual else images[0]
    several = f"several may hold images: {', '.join(images)}" if images else "none holds images (binary, or a struct)"
    raise SourceError(f"{file}: {several}; name one with `column`. Its columns: {_listed(schema)}")


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_images(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _listed(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


class _RowGroups:
    """The row groups read last, and the files they came from."""

    _GROUPS, _FILES = 4, 16

    def __init__(self) -> None:
        self._files: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self._tables: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self._lock = threading.Lock()  # a ParquetFile is not safe to read from two threads

    def read(self, file: str, group: int, columns: Sequence[str] | None) -> pa.Table:
        with self._lock:
            table = self._tables.pop((file, group), None)
            if table is None:
                opened = self._files.pop(file, None) or _open(file)
                self._files[file] = opened
                # no threads of pyarrow's own: they do not survive the fork of a DataLoader worker
                table = opened.read_row_group(group, columns=columns, use_threads=False)
            self._tables[file, group] = table
            while len(self._tables) > self._GROUPS:
                self._tables.popitem(last=False)
            while len(self._files) > self._FILES:
                self._files.popitem(last=False)[1].close()
            return table
