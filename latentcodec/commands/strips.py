"""Several pictures in one file: side by side, or one after another."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from latentcodec.aside import written_aside
from latentcodec.commands import CommandError
from latentcodec.images.save import save_png

STRIPS = (".png", ".jpg", ".jpeg")
ANIMATIONS = (".gif", ".webp")


def write_frames(pictures: Sequence[UInt8[np.ndarray, "height width 3"]], path: Path, milliseconds: int) -> str:
    """Write pictures of one size as what the name's ending asks for; returns what that is, in a word or two.

    Raises:
        CommandError: an ending that says neither strip, animation nor folder.
    """
    ending = path.suffix.lower()
    if not ending:
        digits = len(str(len(pictures) - 1))
        for number, picture in enumerate(pictures):
            save_png(picture, path / f"{number:0{digits}}.png")
        return "folder"
    if ending not in (*STRIPS, *ANIMATIONS):
        raise CommandError(
            f"--output: expected a name that ends in {', '.join((*STRIPS, *ANIMATIONS))}, or a folder; found {path.name}"
        )
    with written_aside(path) as aside:
        images = [Image.fromarray(picture) for picture in pictures]
        if ending in STRIPS:
            kind = "PNG" if ending == ".png" else "JPEG"
            Image.fromarray(np.concatenate(pictures, axis=1)).save(aside, format=kind)
            return "strip"
        options = {"lossless": False, "quality": 90} if ending == ".webp" else {}
        images[0].save(
            aside, format=ending[1:].upper(), save_all=True, append_images=images[1:], duration=milliseconds, loop=0, **options
        )  # fmt: skip
    return "animation"
