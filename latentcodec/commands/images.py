"""The images that a command line names: found first, then decoded ahead by threads, broken ones set aside."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from latentcodec.commands import CommandError
from latentcodec.images.decode import BrokenImageError, decode_image, printable_path
from latentcodec.images.folder import FolderSource
from latentcodec.images.skipped import SkippedImages

Named = tuple[str, UInt8[np.ndarray, "_ _ 3"]]
"""A file's name, or its path below the folder that was named, and the image."""

_CHUNK_PIXELS = 16 * 512 * 512
_THREADS = 4


def find_images(paths: Sequence[str]) -> list[Callable[[], Named]]:
    """What reads each of the files among `paths`, and each image below its folders, in that order.

    Raises:
        SourceError: a folder without images. What is returned raises BrokenImageError, with the name as its id.
    """
    found: list[Callable[[], Named]] = []
    for path in paths:
        if Path(path).is_dir():
            source = FolderSource(path, metadata=False)
            found += [_reader_in_folder(source, index) for index in range(len(source))]
        else:
            found.append(_reader(path))
    return found


def _reader(path: str) -> Callable[[], Named]:
    name = printable_path(Path(path).name)
    return lambda: (name, decode_image(path, id=name))


def _reader_in_folder(source: FolderSource, index: int) -> Callable[[], Named]:
    def read() -> Named:
        item = source[index]
        return item.id, item.decode()

    return read


def read_chunks(readers: Sequence[Callable[[], Named]], skipped: SkippedImages) -> Iterator[list[Named]]:
    """Decoded images with their names, a few at a time, in order. Those that are broken go to `skipped` instead.

    Raises:
        CommandError: two of the same name, whose results would overwrite each other.
    """
    chunk: list[Named] = []
    names: set[str] = set()
    for future in _ahead(readers):
        try:
            name, pixels = future.result()
        except BrokenImageError as error:
            skipped.add(error.id, error.reason)
            continue
        if name in names:
            raise CommandError(f"two images are called {name}; run the command for each, into different folders")
        names.add(name)
        chunk.append((name, pixels))
        if sum(image.shape[0] * image.shape[1] for _, image in chunk) >= _CHUNK_PIXELS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _ahead(readers: Sequence[Callable[[], Named]]) -> Iterator[Future[Named]]:
    """The result of each, in order, from threads that run a few ahead."""
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: deque[Future[Named]] = deque()
        for read in readers:
            waiting.append(pool.submit(read))
            if len(waiting) > 2 * _THREADS:
                yield waiting.popleft()
        yield from waiting


def psnr(reference: UInt8[np.ndarray, "height width 3"], image: UInt8[np.ndarray, "height width 3"]) -> float | None:
    """10 log10(255^2 / mean squared error) in dB; None for equal images, which have none."""
    error = np.mean((reference.astype(np.float64) - image) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else None
