"""The parquet side of a shard: what is known of each row besides its latents."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from latentcodec.store.errors import StoreDamagedError
from latentcodec.store.files import StoreFolder
from latentcodec.store.manifest import ShardEntry

INDEX_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("item", pa.int64(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("height", pa.int64(), nullable=False),
        pa.field("width", pa.int64(), nullable=False),
        pa.field("resized_height", pa.int64(), nullable=False),
        pa.field("resized_width", pa.int64(), nullable=False),
        pa.field("crop_top", pa.int64(), nullable=False),
        pa.field("crop_left", pa.int64(), nullable=False),
        pa.field("crop_height", pa.int64(), nullable=False),
        pa.field("crop_width", pa.int64(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("label", pa.int64()),
        pa.field("metadata", pa.string()),
    ]
)
"""The columns of every index; `IndexRow` says what they hold."""

_GROUP_ROWS = 1024


@dataclass(frozen=True)
class IndexRow:
    """What the index says of one row."""

    id: str
    """Of the image in its source."""
    item: int
    """Its number in the source."""
    source_sha256: str
    """Of the encoded file, in hexadecimal; of the pixels where the source makes its images."""
    height: int
    """Of the image as it came, upright, in pixels."""
    width: int
    resized_height: int
    """Of the image after it was resized."""
    resized_width: int
    crop_top: int
    """Of the box that was encoded, in pixels of the resized image."""
    crop_left: int
    crop_height: int
    crop_width: int
    method: str
    """How the network was run: "whole", "tiles", or "tiles: " and what was approximated."""
    caption: str | None
    label: int | None
    metadata: str | None
    """What else the source says of the image: a JSON object."""


def index_bytes(rows: Sequence[IndexRow]) -> bytes:
    """A parquet file of `rows`."""
    columns: list[list[Any]] = [[getattr(row, field.name) for row in rows] for field in fields(IndexRow)]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, INDEX_SCHEMA, strict=True)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=INDEX_SCHEMA), sink, compression="zstd", row_group_size=_GROUP_ROWS
    )
    return bytes(sink.getvalue().to_pybytes())


def read_index(folder: StoreFolder, entry: ShardEntry) -> pa.Table:
    """The index of a shard, in the order of its rows.

    Raises:
        StoreDamagedError: it is missing, cannot be read, or has another number of rows than the shard.
    """
    label = f"{folder}/{entry.index_path}"
    try:
        # no threads of pyarrow's own: they do not survive the fork of a DataLoader worker
        table = pq.read_table(pa.BufferReader(folder.read(entry.index_path)), use_threads=False)
    except pa.ArrowInvalid as error:
        raise StoreDamagedError(f"{label}: expected a parquet file, found: {error}; write the store again") from error
    if table.schema.names != INDEX_SCHEMA.names or len(table) != entry.rows:
        raise StoreDamagedError(
            f"{label}: expected {entry.rows} rows of {', '.join(INDEX_SCHEMA.names)}, found {len(table)} rows of "
            f"{', '.join(table.schema.names)}; write the store again"
        )
    return table
