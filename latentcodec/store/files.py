"""A folder of objects, on a disk or behind an fsspec URL, each of them whole or absent."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from latentcodec.aside import written_aside
from latentcodec.images.process import PerProcess
from latentcodec.store.errors import StoreDamagedError, StoreError

Bytes = bytes | bytearray | memoryview


class StoreFolder:
    """Objects by name, such as `parts/000012.json`, below a folder. Can be pickled, and used from several threads.

    An object appears whole: on a disk by a rename, behind a URL because object storage shows what was uploaded only when
    all of it is there. Nothing is listed from a cache, so what other machines wrote is seen.

    Args:
        url: a path, or a URL that fsspec knows (`s3://bucket/latents`, `memory://latents`).
    """

    def __init__(self, url: str | os.PathLike) -> None:
        self.url = os.path.expanduser(os.fspath(url)).rstrip("/") or "/"
        self._connection = PerProcess(partial(_connect, self.url))

    def __str__(self) -> str:
        return self.url

    def local_path(self, name: str) -> Path | None:
        """Where an object is on this machine's file system; None if it is behind a URL."""
        filesystem, root = self._connection.get()
        return Path(root, name) if isinstance(filesystem, LocalFileSystem) else None

    def exists(self, name: str) -> bool:
        """Whether the object is there, which means that it is whole."""
        filesystem, root = self._connection.get()
        return bool(filesystem.exists(f"{root}/{name}"))

    def size(self, name: str) -> int:
        """Bytes of the object.

        Raises:
            StoreDamagedError: it is not there.
        """
        filesystem, root = self._connection.get()
        try:
            return int(filesystem.size(f"{root}/{name}"))
        except FileNotFoundError as error:
            raise self._absent(name) from error

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """The object, or its bytes from `start` up to `stop`.

        Raises:
            StoreDamagedError: it is not there.
        """
        filesystem, root = self._connection.get()
        try:
            return bytes(filesystem.cat_file(f"{root}/{name}", start=start, end=stop))
        except FileNotFoundError as error:
            raise self._absent(name) from error

    def write(self, name: str, parts: Bytes | Sequence[Bytes]) -> None:
        """Put an object there, whole, made of one piece of bytes or of several in a row; an old one is replaced."""
        pieces = [parts] if isinstance(parts, Bytes) else parts
        path = self.local_path(name)
        if path is None:
            filesystem, root = self._connection.get()
            # not `open(..., "wb")`, which would keep what was written before an error as the whole object
            filesystem.pipe_file(f"{root}/{name}", b"".join(pieces))
            return
        try:
            _write_local(path, pieces)
        except FileNotFoundError:  # somebody who tidied up took the unfinished file for a leftover
            _write_local(path, pieces)

    def delete(self, name: str) -> None:
        """Take an object away; one that is not there is no error."""
        filesystem, root = self._connection.get()
        try:
            filesystem.rm_file(f"{root}/{name}")
        except FileNotFoundError:
            return

    def list(self, folder: str) -> list[str]:
        """Names of the objects directly inside `folder`, without it, sorted; none if there is no such folder."""
        path = self.local_path(folder)
        try:
            if path is not None:  # fsspec looks at each file once more, and fails if one has gone meanwhile
                return sorted(entry.name for entry in os.scandir(path) if entry.is_file())
            filesystem, root = self._connection.get()
            found = filesystem.ls(f"{root}/{folder}", detail=True)
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rpartition("/")[2] for entry in found if entry["type"] == "file")

    def _absent(self, name: str) -> StoreDamagedError:
        return StoreDamagedError(f"{self.url}/{name}: expected an object of the store, found none; check the path")


def _write_local(path: Path, pieces: Sequence[Bytes]) -> None:
    with written_aside(path) as aside, open(aside, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())  # else the name could outlive a power failure without the content


def _connect(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """A connection for each process, and what names start with."""
    try:
        filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:  # a package that is not installed, a protocol that does not exist
        raise StoreError(f"{url}: expected a path or a URL that fsspec can open, but: {error}") from error
    return filesystem, root.rstrip("/")
