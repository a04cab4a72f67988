"""Tar shards in the webdataset form as a map-style source: random access by offset, nothing unpacked."""

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence

import fsspec
import numpy as np

from latentcodec.images.decode import IMAGE_EXTENSIONS, BrokenImageError
from latentcodec.images.items import ImageItem, SourceError, checked_index, listing_hash
from latentcodec.images.packed import PackedStrings
from latentcodec.images.paths import find_files, is_url, relative_names
from latentcodec.images.process import PerProcess
from latentcodec.images.sidecars import SIDECAR_EXTENSIONS, parse_sidecars
from latentcodec.images.tar_index import TarMember, read_members

# webdataset's rule: the stem ends at the first dot of the base name; all behind it is the extension
_STEM = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")


class WebDatasetSource:
    """Images in tar shards; the members of one stem (``00017.jpg``, ``00017.json``) make one item.

    The headers are read once, when the source is made. An item's id is ``shard.tar/member``. Where a tar holds a
    member twice, the later one counts, as when unpacking it.

    Args:
        path: one ``.tar``, a glob, braces (``train-{000..003}.tar``), or a folder of tars; local or URL.
        image: extension of the member that is the image, such as ``jpg`` or ``input.png``; by default the first
            member of the group with a known image extension.
        metadata: whether to read the json, txt and cls members.

    Raises:
        SourceError: no shard, a shard that is no plain tar, or no image in any.
    """

    def __init__(self, path: str | os.PathLike, *, image: str | None = None, metadata: bool = True) -> None:
        self.shards = find_files(os.fspath(path), (".tar",))
        self._labels = relative_names(self.shards)
        wanted = (image.lower().lstrip("."),) if image else tuple(ending.lstrip(".") for ending in IMAGE_EXTENSIONS)
        rows: list[tuple[int, TarMember, dict[str, TarMember]]] = []
        seen: set[str] = set()
        for shard, shard_path in enumerate(self.shards):
            for members in _groups(shard_path).values():
                seen.update(members)
                found = next((members[extension] for extension in members if extension in wanted), None)
                if found is not None:
                    rows.append((shard, found, members))
        if not rows:
            raise SourceError(
                f"{os.fspath(path)}: no images in {len(self.shards)} shard(s); looked for members with extension "
                f"{' '.join(wanted)}, found {' '.join(sorted(seen)) or 'no members'}; name it with `image`"
            )
        self._names = PackedStrings(member.name.encode() for _, member, _ in rows)
        self._shard_of = np.array([shard for shard, _, _ in rows], dtype=np.int32)
        self._places = _places([member for _, member, _ in rows])
        self._sidecars = {}
        if metadata:
            for extension in SIDECAR_EXTENSIONS:
                if any(extension in members for _, _, members in rows):
                    self._sidecars[extension] = _places([members.get(extension) for _, _, members in rows])
        self._files = PerProcess(_OpenFiles)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> ImageItem:
        index = checked_index(index, len(self))
        shard = int(self._shard_of[index])
        id = f"{self._labels[shard]}/{self._names[index].decode()}"
        data = self._read(shard, self._places[index], id)
        sidecars = {
            extension: self._read(shard, places[index], id)
            for extension, places in self._sidecars.items()
            if places[index, 0] >= 0
        }
        return ImageItem(id, data, parse_sidecars(id, sidecars))

    def listing(self) -> str:
        """See `ListedSource`."""
        shards = hashlib.sha256(self._shard_of.astype("<i4", copy=False).data).hexdigest()
        return listing_hash("webdataset", self._names.digest(), shards, *self._labels)

    def _read(self, shard: int, place: np.ndarray, id: str) -> bytes:
        offset, size = int(place[0]), int(place[1])
        path = self.shards[shard]
        try:
            if is_url(path):
                filesystem, name = fsspec.core.url_to_fs(path)
                data = filesystem.cat_file(name, start=offset, end=offset + size)
            else:
                data = self._files.get().read(path, offset, size)
        except FileNotFoundError as error:
            raise BrokenImageError(id, f"cannot be opened: shard {path} is gone") from error
        if len(data) != size:
            reason = f"cut-off shard: {path} ends {size - len(data)} bytes early; fetch or write it again"
            raise BrokenImageError(id, reason)
        return data


def _groups(path: str) -> dict[str, dict[str, TarMember]]:
    """Stem -> extension -> member, in the order of the tar."""
    groups: dict[str, dict[str, TarMember]] = {}
    with fsspec.open(path, "rb") if is_url(path) else open(path, "rb", buffering=0) as file:
        for member in read_members(file, path):
            name = member.name.removeprefix("./")
            matched = _STEM.fullmatch(name)
            if matched:  # hidden files (._name of macOS) do not match
                groups.setdefault(matched[1], {})[matched[2].lower()] = member._replace(name=name)
    return groups


def _places(members: Sequence[TarMember | None]) -> np.ndarray:
    """``int64 [len(members), 2]`` of offset and size, (-1, 0) where there is no member."""
    return np.array([(member.offset, member.size) if member else (-1, 0) for member in members], dtype=np.int64)


class _OpenFile:
    """A file that closes itself when the last reader has let go of it."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  closed in __del__
        self._lock = threading.Lock()

    def read(self, offset: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(offset)
            parts = []
            while size > 0 and (part := self._file.read(size)):
                parts.append(part)
                size -= len(part)
            return b"".join(parts)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


class _OpenFiles:
    """The shards opened last: reopening one for each item is slow, keeping thousands open runs out of handles."""

    _AT_MOST = 64

    def __init__(self) -> None:
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: str, offset: int, size: int) -> bytes:
        with self._lock:
            file = self._open.pop(path, None) or _OpenFile(path)
            self._open[path] = file
            if len(self._open) > self._AT_MOST:
                self._open.popitem(last=False)
        return file.read(offset, size)
