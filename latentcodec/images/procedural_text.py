"""Blocks of made-up glyphs: the thin, regular strokes that text has and leaves have not."""

from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Bool

from latentcodec.images.procedural_random import Draws

_GLYPHS, _HEIGHT, _WIDTH = 64, 32, 20


@lru_cache(maxsize=1)
def _alphabet() -> Bool[np.ndarray, "glyphs height width"]:
    """64 glyphs of two to four strokes between the points of a 3 x 4 grid; always the same ones. Glyph 0 is a space."""
    draws = Draws(2**64 - 1, 1)
    y, x = (axis.astype(np.float32) for axis in np.mgrid[:_HEIGHT, :_WIDTH])
    glyphs = np.zeros((_GLYPHS, _HEIGHT, _WIDTH), dtype=bool)
    for glyph in glyphs[1:]:
        points = draws.integers(3 + draws.integer(3), 12)
        for start, end in pairwise(points):
            x0, x1 = (3 + 6.5 * (int(point) % 3) for point in (start, end))
            y0, y1 = (3 + 8.5 * (int(point) // 3) for point in (start, end))
            length = (x1 - x0) ** 2 + (y1 - y0) ** 2
            along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / max(length, 1.0), 0, 1)
            glyph |= (x - x0 - along * (x1 - x0)) ** 2 + (y - y0 - along * (y1 - y0)) ** 2 < 5.0
    return glyphs


def text_mask(draws: Draws) -> Bool[np.ndarray, "height width"]:
    """A few lines of glyphs, 7 to 40 pixels high, sometimes turned by a quarter."""
    height = (7, 8, 9, 10, 12, 14, 18, 24, 40)[draws.integer(9)]
    width = height * 5 // 8
    lines, columns = 1 + draws.integer(max(1, 120 // height)), 3 + draws.integer(max(1, 200 // width))
    text = draws.integers(lines * columns, _GLYPHS * 5 // 4).reshape(lines, columns)
    text[text >= _GLYPHS] = 0  # a fifth are spaces
    rows = np.arange(height) * _HEIGHT // height
    glyphs = _alphabet()[:, rows[:, None], np.arange(width) * _WIDTH // width]
    block = glyphs[text].transpose(0, 2, 1, 3)
    spaced = np.zeros((lines, height + height // 3 + 1, columns, width), dtype=bool)
    spaced[:, :height] = block
    mask = spaced.reshape(lines * spaced.shape[1], columns * width)
    return mask.T if draws.integer(6) == 0 else mask
