"""Forms in which other libraries read latents. A new one is a function and a line in `EXPORT_FORMATS`."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latentcodec.store.files import Bytes
from latentcodec.store.index import INDEX_SCHEMA, IndexRow

_GROUP_BYTES = 2**24
"""Of values in a row group of a parquet file: a reader of one row reads so much."""
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest there is, so that a file depends on its content only."""


@dataclass(frozen=True, eq=False)
class ExportedShard:
    """Rows that make one file."""

    first_row: int
    """In the store."""
    index: Sequence[IndexRow]
    values: dict[str, list[np.ndarray]]
    """Name -> an array [channels, height, width] for each row, float16 or float32."""
    same_shape: bool
    """Whether all rows share theirs."""


@dataclass(frozen=True)
class ExportFormat:
    """How shards become files."""

    ending: str
    encode: Callable[[ExportedShard], Sequence[Bytes]]
    """The file's bytes, in pieces."""


def webdataset_file(shard: ExportedShard) -> list[Bytes]:
    """A tar as the `webdataset` package reads it. Of each row KEY.NAME.npy for each of its arrays, KEY.json with what the
    index says, KEY.txt with the caption and KEY.cls with the label if it has them. KEY is its number in the store."""
    pieces: list[Bytes] = []
    for place, row in enumerate(shard.index):
        members: dict[str, list[Bytes]] = {f"{name}.npy": _npy(arrays[place]) for name, arrays in shard.values.items()}
        members["json"] = [json.dumps(_facts(row)).encode()]
        if row.caption is not None:
            members["txt"] = [row.caption.encode()]
        if row.label is not None:
            members["cls"] = [str(row.label).encode()]
        for ending, content in members.items():
            pieces += _tar_member(f"{shard.first_row + place:012d}.{ending}", content)
    return [*pieces, bytes(2 * tarfile.BLOCKSIZE)]


def parquet_file(shard: ExportedShard) -> list[Bytes]:
    """A parquet file as `datasets` and pyarrow read it: the columns of the index, `shape` [channels, height, width], and a
    flat list for each array, to be reshaped to it."""
    fields: list[pa.Field] = [*INDEX_SCHEMA, pa.field("shape", pa.list_(pa.int64()))]
    for name, arrays in shard.values.items():
        fields.append(pa.field(name, pa.list_(pa.from_numpy_dtype(arrays[0].dtype))))
    schema = pa.schema(fields)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for rows in _row_groups(shard):
            columns = [
                pa.array([getattr(shard.index[row], field.name) for row in rows], field.type) for field in INDEX_SCHEMA
            ]
            shapes = [next(iter(shard.values.values()))[row].shape for row in rows]
            columns.append(pa.array([list(shape) for shape in shapes], pa.list_(pa.int64())))
            columns += [_flat_lists([arrays[row] for row in rows]) for arrays in shard.values.values()]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return [memoryview(sink.getvalue())]


def npz_file(shard: ExportedShard) -> list[Bytes]:
    """A file for `numpy.load`, without pickles: for each array NAME [rows, channels, height, width], or NAME.0, NAME.1, ...
    where shapes differ; and the columns of the index. Where a caption, label or metadata is missing it is empty, or 0, and
    `caption_missing`, `label_missing` or `metadata_missing` is True."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, arrays in shard.values.items():
            named = (
                {name: np.stack(arrays)} if shard.same_shape else {f"{name}.{i}": one for i, one in enumerate(arrays)}
            )
            for key, array in named.items():
                _write_npy(archive, key, array, zipfile.ZIP_STORED)  # latents do not get smaller
        for field in INDEX_SCHEMA:
            column = [getattr(row, field.name) for row in shard.index]
            if field.nullable:
                missing = np.array([value is None for value in column])
                _write_npy(archive, f"{field.name}_missing", missing, zipfile.ZIP_DEFLATED)
            empty = "" if field.type == pa.string() else 0
            filled = np.array([empty if value is None else value for value in column])
            _write_npy(archive, field.name, filled, zipfile.ZIP_DEFLATED)
    return [file.getbuffer()]


EXPORT_FORMATS: dict[str, ExportFormat] = {
    "webdataset": ExportFormat(".tar", webdataset_file),
    "parquet": ExportFormat(".parquet", parquet_file),
    "npz": ExportFormat(".npz", npz_file),
}
"""Name on the command line -> format."""


def _facts(row: IndexRow) -> dict[str, Any]:
    """What the index says, with the source's metadata as an object."""
    return {**asdict(row), "metadata": None if row.metadata is None else json.loads(row.metadata)}


def _npy(array: np.ndarray) -> list[Bytes]:
    """A .npy file, the values not copied."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return [head.getvalue(), np.ascontiguousarray(array).reshape(-1).view(np.uint8).data]


def _tar_member(name: str, content: Sequence[Bytes]) -> list[Bytes]:
    member = tarfile.TarInfo(name)
    member.size = sum(len(piece) for piece in content)
    return [member.tobuf(tarfile.USTAR_FORMAT), *content, bytes(-member.size % tarfile.BLOCKSIZE)]


def _row_groups(shard: ExportedShard) -> Iterator[range]:
    size = sum(array.nbytes for arrays in shard.values.values() for array in arrays)
    step = max(_GROUP_BYTES * len(shard.index) // max(size, 1), 1)
    for start in range(0, len(shard.index), step):
        yield range(start, min(start + step, len(shard.index)))


def _flat_lists(arrays: Sequence[np.ndarray]) -> pa.ListArray:
    ends = np.cumsum([0, *(array.size for array in arrays)])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), np.concatenate([array.reshape(-1) for array in arrays]))


def _write_npy(archive: zipfile.ZipFile, name: str, array: np.ndarray, compression: int) -> None:
    member = zipfile.ZipInfo(f"{name}.npy", _ZIP_TIME)
    member.compress_type = compression
    with archive.open(member, "w", force_zip64=True) as file:
        np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
