"""The safetensors side of a shard: written from pieces without copying them, read row by row without reading the rest."""

import hashlib
import json
import math
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latentcodec.store.errors import StoreDamagedError
from latentcodec.store.files import Bytes, StoreFolder
from latentcodec.store.index import IndexRow, index_bytes
from latentcodec.store.manifest import ShardEntry
from latentcodec.store.sealed import FORMAT, VERSION
from latentcodec.store.settings import ValueType

DTYPES: dict[ValueType, tuple[torch.dtype, str]] = {
    "float32": (torch.float32, "F32"),
    "bfloat16": (torch.bfloat16, "BF16"),
    "float16": (torch.float16, "F16"),
}
"""Type of stored values -> torch's, and its name in a safetensors header."""

FLIPPED = "_flipped"
"""Ending of the tensor with the latents of mirrored images."""

_TYPES_IN_HEADER = {code: dtype for dtype, code in DTYPES.values()}
_HEADER_ALIGNMENT = 64
_FIRST_READ = 4096
"""Bytes of a shard behind a URL that are fetched for its header at first; more if the header is longer."""

Latents = Float[Tensor, "channels height width"]


@dataclass(frozen=True, eq=False)
class ShardContent:
    """What goes into one shard. Tensors are of one type, on the CPU and contiguous."""

    part: int
    kind: str
    """Name of the tensor: "moments" or "mean"."""
    height: int
    """Of the latents; 0 where each row has a shape of its own (native resolution)."""
    width: int
    rows: Sequence[IndexRow]
    values: Sequence[Tensor]
    """Pieces in the order of the rows: of any number of rows `[rows, channels, height, width]`; of one row each where
    shapes differ."""
    flipped: Sequence[Tensor] | None
    """Likewise, of the mirrored images; None if they are not stored."""


def write_shard(folder: StoreFolder, content: ShardContent) -> ShardEntry:
    """Write both files of a shard.

    Returns:
        Their entry, for the part's record.
    """
    pieces = _file(content)
    index = index_bytes(content.rows)
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    entry = ShardEntry(
        part=content.part,
        height=content.height,
        width=content.width,
        rows=len(content.rows),
        bytes=sum(len(piece) for piece in pieces),
        sha256=digest.hexdigest(),
        index_sha256=hashlib.sha256(index).hexdigest(),
    )
    folder.write(entry.path, pieces)
    folder.write(entry.index_path, index)
    return entry


class Shard:
    """The latents of a shard that is open: of each row, in the type they are stored in.

    On a local disk the file is memory-mapped; behind a URL each read fetches the bytes of its rows only. Safe to use
    from several threads. Do not take it into another process: open it there.

    Args:
        folder: the store.
        entry: which of its shards.
        kind: "moments" or "mean", see `Settings.values`.

    Raises:
        StoreDamagedError: missing, shorter or longer than the entry says, or with other tensors than it says.
    """

    def __init__(self, folder: StoreFolder, entry: ShardEntry, kind: str) -> None:
        self.entry = entry
        self._folder = folder
        self._label = f"{folder}/{entry.path}"
        self._kind = kind
        self._map: mmap.mmap | None = self._open_map()
        if self._map is None and folder.size(entry.path) != entry.bytes:
            raise self._damaged(f"{entry.bytes} bytes", f"{folder.size(entry.path)}")
        self._wholes: dict[tuple[bool, bool], tuple[Tensor, int]] = {}
        header, self._start = self._read_header()
        try:
            self._places = {name: _Place.of(fields) for name, fields in header.items() if name != "__metadata__"}
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged("tensors of a known type in its header", repr(error)) from error
        self._check()

    @property
    def flipped(self) -> bool:
        """Whether it has mirrored images too."""
        return self._name(0, True) in self._places

    @property
    def mapped(self) -> bool:
        """Whether the rows lie in memory, one behind the other: on a local disk, where they share their shape."""
        return self._map is not None and not self.entry.native

    def __len__(self) -> int:
        return self.entry.rows

    def row(self, index: int, *, flipped: bool = False) -> Latents:
        """One row, in memory of its own: moments `[2 * channels, height, width]`, or mean `[channels, height, width]`.

        Args:
            index: 0 ... rows - 1.
            flipped: that of the mirrored image.

        Raises:
            IndexError: no such row.
            KeyError: no mirrored images in this store.
        """
        place, offset = self._locate(index, flipped)
        shape = place.shape if self.entry.native else place.shape[1:]
        return self._values(place.dtype, offset, shape)

    def view(self, index: int, *, flipped: bool = False, means: bool = False) -> Latents:
        """`row`, but in the memory of the mapped file where that can be: for whoever reads it at once and does not keep it.

        Args:
            means: of moments the mean alone.
        """
        if index < 0 or not self.mapped:
            row = self.row(index, flipped=flipped)
            return row.chunk(2)[0] if means and self._kind == "moments" else row
        whole, stride = self._whole(flipped, means)
        return whole[stride * index]  # which raises IndexError beyond the end

    def gather(
        self,
        rows: Sequence[int],
        *,
        flipped: bool = False,
        means: bool = False,
    ) -> Float[Tensor, "rows channels height width"]:
        """Several rows in any order, in memory of their own.

        Args:
            means: of moments the mean alone.

        Raises:
            IndexError: no such row.
            ValueError: rows of different shapes.
        """
        if not self.mapped:
            found = [self.view(row, flipped=flipped, means=means) for row in rows]
            require_one_shape(found)
            return torch.stack(found)
        whole, stride = self._whole(flipped, means)
        return torch.index_select(whole, 0, torch.tensor(rows) * stride)

    def rows(self, start: int, stop: int, *, flipped: bool = False) -> Float[Tensor, "rows channels height width"]:
        """Rows `start` up to `stop` of a shard whose rows share their shape, in one read."""
        if self.entry.native:
            raise ValueError(f"{self._label}: its rows differ in shape; read them one by one")
        if not 0 <= start < stop <= len(self):
            raise IndexError(f"rows: expected a range inside 0 ... {len(self)}, found {start} ... {stop}")
        place, offset = self._locate(start, flipped)
        return self._values(place.dtype, offset, (stop - start, *place.shape[1:]))

    def close(self) -> None:
        """Give the file back. Rows that were read stay."""
        self._wholes.clear()
        if self._map is not None:
            self._map.close()

    def _open_map(self) -> mmap.mmap | None:
        path = self._folder.local_path(self.entry.path)
        if path is None:
            return None
        try:
            with open(path, "rb") as file:
                found = file.seek(0, 2)
                if found != self.entry.bytes:
                    raise self._damaged(f"{self.entry.bytes} bytes", f"{found}")
                # private and writable, which nobody uses, because torch warns about memory that it may not write to
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except FileNotFoundError as error:
            raise self._damaged("a file", "none") from error

    def _read_header(self) -> tuple[dict[str, Any], int]:
        """The header, and where the data starts."""
        head = self._bytes(0, min(_FIRST_READ, self.entry.bytes))
        stop = 8 + int.from_bytes(head[:8], "little")
        if not 8 < stop <= self.entry.bytes:
            raise self._damaged("the length of a safetensors header", f"{stop - 8}")
        try:
            header = json.loads((head if stop <= len(head) else self._bytes(0, stop))[8:stop])
        except ValueError as error:
            raise self._damaged("a safetensors header", f"{error}") from error
        return header, stop

    def _check(self) -> None:
        """That the tensors are those of the entry and fill the file."""
        if self.entry.native:
            fits = all(self._name(row, False) in self._places for row in range(len(self)))
        else:
            place = self._places.get(self._kind)
            fits = place is not None and place.shape[0] == len(self) and place.shape[2:] == (
                self.entry.height, self.entry.width,
            )  # fmt: skip
        ends = max((place.stop for place in self._places.values()), default=0)
        if not fits or self._start + ends != self.entry.bytes:
            found = ", ".join(f"{name} {list(place.shape)}" for name, place in list(self._places.items())[:4])
            raise self._damaged(f"{len(self)} rows of {self._kind} as its entry says", found or "no tensors")

    def _name(self, row: int, flipped: bool) -> str:
        return tensor_name(self._kind, row if self.entry.native else None, flipped)

    def _locate(self, index: int, flipped: bool) -> tuple["_Place", int]:
        """The tensor that a row is in, and the byte of the file where the row starts."""
        if not 0 <= index < len(self):
            raise IndexError(f"row: expected 0 ... {len(self) - 1}, found {index}")
        name = self._name(index, flipped)
        if name not in self._places:
            raise KeyError(f"{self._label}: no tensor {name}; the store was written without mirrored images")
        place = self._places[name]
        within = 0 if self.entry.native else index * (place.stop - place.start) // len(self)
        return place, self._start + place.start + within

    def _whole(self, flipped: bool, means: bool) -> tuple[Tensor, int]:
        """All rows of a mapped shard, where they lie, and how many steps one row is from the next."""
        found = self._wholes.get((flipped, means))
        if found is None:
            place, offset = self._locate(0, flipped)
            flat = torch.frombuffer(self._map, dtype=place.dtype, count=math.prod(place.shape), offset=offset)
            rows, channels, height, width = place.shape
            steps = 2 if means and self._kind == "moments" else 1  # mean, logvar, mean, logvar, ...
            found = flat.reshape(steps * rows, channels // steps, height, width), steps
            self._wholes[flipped, means] = found
        return found

    def _values(self, dtype: torch.dtype, offset: int, shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        if self._map is not None:
            return torch.frombuffer(self._map, dtype=dtype, count=count, offset=offset).reshape(shape).clone()
        data = bytearray(self._bytes(offset, offset + count * dtype.itemsize))
        return torch.frombuffer(data, dtype=dtype).reshape(shape)

    def _bytes(self, start: int, stop: int) -> bytes:
        return self._map[start:stop] if self._map is not None else self._folder.read(self.entry.path, start, stop)

    def _damaged(self, expected: str, found: str) -> StoreDamagedError:
        return StoreDamagedError(f"{self._label}: expected {expected}, found {found}; fetch or write the store again")


@dataclass(frozen=True)
class _Place:
    """A tensor in a file; bytes are counted from the end of the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "_Place":
        start, stop = fields["data_offsets"]
        return cls(_TYPES_IN_HEADER[fields["dtype"]], tuple(fields["shape"]), start, stop)


def require_one_shape(rows: Sequence[Tensor]) -> None:
    """Raises:
    ValueError: none, or of different shapes.
    """
    shapes = sorted({tuple(row.shape) for row in rows})
    if len(shapes) != 1:
        raise ValueError(f"a batch: expected rows of one shape, found {' and '.join(map(str, shapes)) or 'no rows'}")


def tensor_name(kind: str, row: int | None, flipped: bool) -> str:
    """Name of a tensor in a shard.

    Args:
        kind: "moments" or "mean".
        row: of a shard whose rows differ in shape, else None.
        flipped: of the mirrored image.
    """
    return kind + (FLIPPED if flipped else "") + ("" if row is None else f".{row}")


def _file(content: ShardContent) -> list[Bytes]:
    """The bytes of a safetensors file in pieces: https://github.com/huggingface/safetensors#format."""
    header: dict[str, Any] = {
        "__metadata__": {"format": FORMAT, "version": str(VERSION), "part": str(content.part)},
    }
    pieces: list[Bytes] = []
    end = 0
    for flipped, tensors in ((False, content.values), (True, content.flipped)):
        if tensors is None:
            continue
        groups = [[tensor] for tensor in tensors] if content.height == 0 else [list(tensors)]
        for row, group in enumerate(groups):
            name = tensor_name(content.kind, row if content.height == 0 else None, flipped)
            start, end = end, end + sum(tensor.nbytes for tensor in group)
            header[name] = {"dtype": _code(group[0]), "shape": _shape(content, group), "data_offsets": [start, end]}
            pieces += [tensor.reshape(-1).view(torch.uint8).numpy().data for tensor in group]
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-(8 + len(text)) % _HEADER_ALIGNMENT)  # the format allows spaces; values start at a multiple of 64
    return [len(text).to_bytes(8, "little") + text, *pieces]


def _shape(content: ShardContent, group: Sequence[Tensor]) -> list[int]:
    if content.height == 0:
        return list(group[0].shape[-3:])
    return [sum(len(tensor) for tensor in group), *group[0].shape[1:]]


def _code(tensor: Tensor) -> str:
    return next(code for dtype, code in DTYPES.values() if dtype == tensor.dtype)
