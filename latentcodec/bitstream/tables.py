"""Integer probability tables: one for each spread and each place of the expected value between two integers.

The context model gives an expected value m (in eighths of the step) and a spread, as the number of one of CLASSES. Up to
a spread of 4 steps the integer nearest to m is taken off, and what is left, in -31 ... 31, has its own table for each of
eight fractions of m. A larger spread is a shift: the lowest bits of the difference are as good as uniform, and are
stored as they are; the rest has a table of the octave from 2 to 4. What is out of a table's range is an escape, and is
stored in 32 bits.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

PRECISION = 16
"""Frequencies of a table add up to 2^PRECISION."""
RANGE = 31
"""Differences -RANGE ... RANGE have a symbol each."""
ESCAPE = 2 * RANGE + 1
SYMBOLS = ESCAPE + 1

CLASSES_PER_OCTAVE = 4
_LOWEST, _HIGHEST = -4, 2
"""Octaves of spreads that have tables: 1/16 to 4 steps."""
BASE_CLASSES = (_HIGHEST - _LOWEST) * CLASSES_PER_OCTAVE + 1
LARGEST_SHIFT = 16
CLASSES = BASE_CLASSES + LARGEST_SHIFT * CLASSES_PER_OCTAVE
FRACTIONS = 8
SHIFTED = FRACTIONS
"""The place of the tables for shifted differences, after those of the fractions."""
ESCAPE_BITS = 32
MOST = 2**28
"""Integers lie in -MOST ... MOST."""


def spread(classes: np.ndarray) -> np.ndarray:
    """Of each class, in steps."""
    return 2.0 ** (_LOWEST + np.asarray(classes) / CLASSES_PER_OCTAVE)


def class_of(log2_spread: Int64[np.ndarray, " n"], log2_step: int, unit: int) -> Int64[np.ndarray, " n"]:
    """The class nearest to a spread. Both logarithms in 1 / unit octaves, a multiple of 2 CLASSES_PER_OCTAVE."""
    octave = unit // CLASSES_PER_OCTAVE
    found = (log2_spread - log2_step - _LOWEST * unit + octave // 2) // octave
    return np.clip(found, 0, CLASSES - 1)


@dataclass(frozen=True, eq=False)
class Split:
    """Where the integers of some positions are looked for, before any of them is known."""

    start: Int64[np.ndarray, " n"]
    """What is taken off."""
    shift: Int64[np.ndarray, " n"]
    """Lowest bits that are stored as they are."""
    table: Int64[np.ndarray, " n"]
    """Row of the bank."""

    def symbols(self, values: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Columns of the bank for these integers; ESCAPE for those out of range."""
        high = (values - self.start) >> self.shift
        return np.where(np.abs(high) > RANGE, ESCAPE, high + RANGE)


def split(expected: Int64[np.ndarray, " n"], classes: Int64[np.ndarray, " n"]) -> Split:
    """`expected` in eighths of the step."""
    shift = np.maximum(0, -((BASE_CLASSES - 1 - classes) // CLASSES_PER_OCTAVE))
    base = classes - shift * CLASSES_PER_OCTAVE
    rounded = expected + FRACTIONS // 2
    start = np.where(shift > 0, expected, rounded) >> 3
    place = np.where(shift > 0, SHIFTED, rounded & (FRACTIONS - 1))
    return Split(start, shift, base * (FRACTIONS + 1) + place)


ROWS = BASE_CLASSES * (FRACTIONS + 1)


def edges(place: int) -> Float64[np.ndarray, " edges"]:
    """Borders of the cells of -RANGE ... RANGE about the expected value, in steps (shifted: in units of the shift)."""
    lower = np.arange(-RANGE, RANGE + 2, dtype=np.float64)
    return lower if place == SHIFTED else lower - 0.5 - ((place + 0.5) / FRACTIONS - 0.5)


def logistic_probabilities() -> Float64[np.ndarray, "rows symbols"]:
    """Of a logistic distribution with the spread of each class: what tables start from."""
    rows = []
    for base in range(BASE_CLASSES):
        scale = float(spread(np.array([base]))[0]) * np.sqrt(3) / np.pi
        for place in range(FRACTIONS + 1):
            below = 0.5 * (1 + np.tanh(edges(place) / (2 * scale)))
            cells = np.diff(below)
            rows.append(np.append(cells, 1 - cells.sum()))
    return np.maximum(np.stack(rows), 0.0)


def integer_frequencies(probabilities: Float64[np.ndarray, "rows symbols"]) -> Int64[np.ndarray, "rows symbols"]:
    """Frequencies of at least 1 that add up to 2^PRECISION in each row."""
    total = 2**PRECISION
    normal = probabilities / probabilities.sum(axis=1, keepdims=True)
    frequencies = np.maximum(1, np.floor(normal * (total - SYMBOLS)).astype(np.int64))
    rows = np.arange(len(frequencies))
    frequencies[rows, normal.argmax(axis=1)] += total - frequencies.sum(axis=1)
    return frequencies
