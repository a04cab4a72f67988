"""A folder of image files as a source, local or behind an fsspec URL."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence

import fsspec
import numpy as np

from latentcodec.images.decode import IMAGE_EXTENSIONS, BrokenImageError, printable_path, read_file
from latentcodec.images.items import ImageItem, SourceError, checked_index, listing_hash
from latentcodec.images.packed import PackedStrings
from latentcodec.images.paths import is_url
from latentcodec.images.sidecars import SIDECAR_EXTENSIONS, parse_sidecars


class FolderSource:
    """Every image file below a folder, sorted by path.

    An item's id is its path below the folder *with* extension, so ``a.jpg`` and ``a.png`` stay apart. ``a.txt``,
    ``a.json`` and ``a.cls`` beside an image ``a.*`` are its metadata, read together with it. Hidden files and folders
    (``.name``) are left out; symbolic links are followed.

    Args:
        path: a folder, or a URL that fsspec can list (``s3://bucket/photos``).
        extensions: what counts as an image, in any letter case.
        metadata: whether to read the files beside the images.

    Raises:
        SourceError: no such folder, or no image in it.
    """

    def __init__(
        self, path: str | os.PathLike, *, extensions: Sequence[str] = IMAGE_EXTENSIONS, metadata: bool = True
    ) -> None:
        self.root = os.fspath(path)
        wanted = tuple("." + extension.lower().lstrip(".") for extension in extensions)
        files = sorted(_list_remote(self.root) if is_url(self.root) else _list_local(self.root))
        images = [name for name in files if _extension(name) in wanted]
        if not images:
            raise SourceError(_no_images(self.root, files, wanted))
        self._names = PackedStrings(images)  # bytes: a file name need not be UTF-8
        self._sidecars = _find_sidecars(images, files) if metadata else None

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> ImageItem:
        index = checked_index(index, len(self))
        name = self._names[index]
        id = printable_path(os.fsdecode(name))
        files = {}
        if self._sidecars is not None:
            stem = posixpath.splitext(name)[0]
            for bit, extension in enumerate(SIDECAR_EXTENSIONS):
                if self._sidecars[index] >> bit & 1:
                    files[extension] = self._read(stem + b"." + extension.encode(), id)
        return ImageItem(id, self._read(name, id), parse_sidecars(id, files))

    def listing(self) -> str:
        """See `ListedSource`."""
        return listing_hash("folder", self._names.digest())

    def _read(self, name: bytes, id: str) -> bytes:
        if not is_url(self.root):
            return read_file(os.path.join(self.root, os.fsdecode(name)), id)
        try:
            # fsspec keeps one filesystem per process and URL; a forked worker gets its own
            filesystem, root = fsspec.core.url_to_fs(self.root)
            return filesystem.cat_file(posixpath.join(root, name.decode()))
        except (FileNotFoundError, PermissionError) as error:
            raise BrokenImageError(id, f"cannot be opened: {error.strerror or error}") from error


def _list_local(root: str) -> Iterator[bytes]:
    """Paths of all files below ``root``, relative, with ``/``, as the bytes that the file system holds."""
    if not os.path.isdir(root):
        found = "a file" if os.path.exists(root) else "nothing"
        raise SourceError(f"{printable_path(root)}: expected a folder of images, found {found}; check the path")
    top = os.fsencode(root)
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, files in os.walk(top, onerror=_refuse, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen and status.st_ino:  # a link back up: a loop, or the same images twice
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(b"."))
        below = b"" if folder == top else os.path.relpath(folder, top).replace(os.sep.encode(), b"/") + b"/"
        yield from (below + name for name in files if not name.startswith(b"."))


def _refuse(error: OSError) -> None:
    raise SourceError(f"{printable_path(error.filename)}: cannot be listed: {error.strerror}") from error


def _list_remote(url: str) -> list[bytes]:
    filesystem, root = fsspec.core.url_to_fs(url)
    if not filesystem.isdir(root):
        raise SourceError(f"{url}: expected a folder of images, found no such folder; check the URL and credentials")
    names = (posixpath.relpath(path, root) for path in filesystem.find(root))
    return [name.encode() for name in names if not any(part.startswith(".") for part in name.split("/"))]


def _extension(name: bytes) -> str:
    return printable_path(os.fsdecode(posixpath.splitext(name)[1])).lower()


def _find_sidecars(images: Sequence[bytes], files: Sequence[bytes]) -> np.ndarray:
    """For each image a byte of flags: bit k is set where the file with extension ``SIDECAR_EXTENSIONS[k]`` exists."""
    flags = np.zeros(len(images), dtype=np.uint8)
    endings = [b"." + extension.encode() for extension in SIDECAR_EXTENSIONS]
    existing = {name for name in files if posixpath.splitext(name)[1] in endings}
    if existing:
        for index, image in enumerate(images):
            stem = posixpath.splitext(image)[0]
            flags[index] = sum(1 << bit for bit, ending in enumerate(endings) if stem + ending in existing)
    return flags


def _no_images(root: str, files: Sequence[bytes], wanted: Sequence[str]) -> str:
    kinds = Counter(_extension(name) or "without extension" for name in files)
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    return (
        f"{printable_path(root)}: no images; looked below it for {' '.join(wanted)}, "
        f"found {f'{len(files)} other files ({listed})' if files else 'no files at all'}; check the folder or `extensions`"
    )
