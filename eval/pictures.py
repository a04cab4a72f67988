"""The pictures that a benchmark leaves: originals, and what each codec made of them, as PNG."""

import hashlib
import os
import re
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from latentcodec.images.save import save_png

_UNSAFE = re.compile(r"[^\w.-]", flags=re.ASCII)
_LONGEST = 100


class PictureFolder:
    """`FOLDER/original/IMAGE.png` and `FOLDER/CODEC/SETTING/IMAGE.png`; existing files are replaced.

    Args:
        folder: made when the first picture is saved.
        relative_to: the folder that returned names are relative to: that of the rows; None: `folder`.
    """

    def __init__(self, folder: str | Path, relative_to: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self._from = Path(folder if relative_to is None else relative_to)

    def save_original(self, image: str, pixels: UInt8[np.ndarray, "height width 3"]) -> str:
        """Save an original; returns its name relative to the rows."""
        return self._save(self.folder / "original" / f"{file_name(image)}.png", pixels)

    def save(self, codec: str, setting: str, image: str, pixels: UInt8[np.ndarray, "height width 3"]) -> str:
        """Save a reconstruction; returns its name relative to the rows."""
        return self._save(self.folder / file_name(codec) / file_name(setting) / f"{file_name(image)}.png", pixels)

    def _save(self, path: Path, pixels: UInt8[np.ndarray, "height width 3"]) -> str:
        save_png(pixels, path)
        return Path(os.path.relpath(path, self._from)).as_posix()


def original_of(picture: str) -> str:
    """Name of the original that belongs to a reconstruction, from what `PictureFolder.save` returned."""
    name = PurePosixPath(picture)
    return str(name.parents[2] / "original" / name.name)


def file_name(name: str) -> str:
    """A file name for any id: itself if it is safe everywhere; else with other characters replaced, and a hash of the id, so
    that two ids never share a file."""
    safe = _UNSAFE.sub("_", name).lstrip(".")[:_LONGEST]
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
