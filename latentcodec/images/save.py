"""Pictures to files."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def save_png(pixels: UInt8[np.ndarray, "height width 3"], path: Path) -> None:
    """Write a PNG, making the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
