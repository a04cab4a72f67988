"""Quality, a number from 1 to 100, and the quantiser's step that it stands for."""

import numpy as np

STEPS = 1024
"""Entries of the grid of steps; a file holds an index into it."""
QUALITIES = 100
FINEST, COARSEST = 8, 16384
"""Of the grid, in the units of `transform.RESOLUTION`."""


def step_grid() -> np.ndarray:
    """The steps, int64, ascending: geometric from FINEST to COARSEST, rounded, 0.75 % apart where that is above one."""
    exponents = np.arange(STEPS) / (STEPS - 1)
    grid = np.rint(FINEST * (COARSEST / FINEST) ** exponents)
    return grid.astype(np.int64)


def index_of_quality(quality: float) -> int:
    """Index into the grid: quality 1 is the coarsest step, 100 the finest.

    Raises:
        ValueError: not in 1 ... 100.
    """
    if not 1 <= quality <= QUALITIES:
        raise ValueError(f"quality: expected 1 ... {QUALITIES}, found {quality:g}")
    return round((QUALITIES - quality) / (QUALITIES - 1) * (STEPS - 1))


def quality_of_index(index: int) -> float:
    """The quality whose step has this index."""
    return QUALITIES - index / (STEPS - 1) * (QUALITIES - 1)
