"""Sheets of small pictures: what a run or an export shows of what it can."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "height width 3"]

_GAP = 2


def sheet(columns: Sequence[Sequence[Image]], across: int = 4) -> UInt8[np.ndarray, "sheet_height sheet_width 3"]:
    """Pictures of one size on white: those of a column stand below each other, `across` columns side by side, then the
    next ones below."""
    height, width = columns[0][0].shape[:2]
    tall, rows = len(columns[0]), -(-len(columns) // across)
    block = tall * (height + _GAP) + 4 * _GAP
    out = np.full((rows * block, min(across, len(columns)) * (width + 2 * _GAP), 3), 255, np.uint8)
    for number, column in enumerate(columns):
        top, left = number // across * block, number % across * (width + 2 * _GAP)
        for row, image in enumerate(column):
            start = top + row * (height + _GAP)
            out[start : start + height, left : left + width] = image
    return out
