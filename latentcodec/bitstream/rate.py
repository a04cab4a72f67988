"""The encoder's choice of integers: nearest, or cheaper ones that are nearly as near."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from latentcodec.bitstream.lattice import Pass
from latentcodec.bitstream.tables import SYMBOLS, Split

RATE_WEIGHT = 0.1
"""Squared steps that a bit is worth: for fine steps the slope of distortion over rate is 2 ln 2 / 12 = 0.115."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """Each coefficient goes to the nearest reconstruction point."""

    scaled: Float64[np.ndarray, "channels height width"]
    """Coefficients in steps."""

    def __call__(
        self, channel: int, each: Pass, expected: Int64[np.ndarray, " n"], where: Split
    ) -> Int64[np.ndarray, " n"]:
        rows, columns = each.slices()
        return np.rint(self.scaled[channel, rows, columns].ravel()).astype(np.int64)


@dataclass(frozen=True, eq=False)
class RateDistortion:
    """Of the two integers about a coefficient, and that of the expected value, the one that minimises
    (error in steps)^2 + weight * bits; bits are those of the tables as they stand at that place, so what a choice does
    to later contexts is not seen (greedy rate-distortion optimised quantisation)."""

    scaled: Float64[np.ndarray, "channels height width"]
    bits: Float64[np.ndarray, "rows symbols"]
    """Of each symbol by its table."""
    offsets: Float64[np.ndarray, "rows symbols"]
    weight: float = RATE_WEIGHT

    def __call__(
        self, channel: int, each: Pass, expected: Int64[np.ndarray, " n"], where: Split
    ) -> Int64[np.ndarray, " n"]:
        rows, columns = each.slices()
        scaled = self.scaled[channel, rows, columns].ravel()
        low = np.floor(scaled).astype(np.int64)
        best, least = low, self._cost(low, scaled, where)
        for values in (low + 1, (expected + 4) >> 3):
            cost = self._cost(values, scaled, where)
            best, least = np.where(cost < least, values, best), np.minimum(cost, least)
        return best

    def _cost(
        self, values: Int64[np.ndarray, " n"], scaled: Float64[np.ndarray, " n"], where: Split
    ) -> Float64[np.ndarray, " n"]:
        """Without the bits of the shift, which are the same for all."""
        index = where.table * SYMBOLS + where.symbols(values)
        return (scaled - values - self.offsets.take(index)) ** 2 + self.weight * self.bits.take(index)
