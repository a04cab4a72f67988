"""Logarithms of integers that are the same on every machine."""

import numpy as np
from jaxtyping import Int64

LOG_UNIT = 1024
"""Logarithms to base 2 are integers in units of 1 / LOG_UNIT octaves; fractions too have this many parts."""
_MANTISSA_BITS = 8


def log2_table() -> Int64[np.ndarray, " entries"]:
    """round(LOG_UNIT log2(1 + i / 256)): part of a model's files, since the last bit of a logarithm is a library's own."""
    parts = 2**_MANTISSA_BITS
    return np.rint(LOG_UNIT * np.log2(1 + (np.arange(parts) + 0.5) / parts)).astype(np.int64)


def integer_log2(
    values: Int64[np.ndarray, "*shape"], table: Int64[np.ndarray, " entries"]
) -> Int64[np.ndarray, "*shape"]:
    """LOG_UNIT log2 of positive integers below 2^53, to 1/256 of their value. `frexp` only looks at bits."""
    mantissa, exponent = np.frexp(values.astype(np.float64))  # in [0.5, 1)
    index = (mantissa * 2 ** (_MANTISSA_BITS + 1)).astype(np.int64) - 2**_MANTISSA_BITS
    return (exponent.astype(np.int64) - 1) * LOG_UNIT + table[index]
