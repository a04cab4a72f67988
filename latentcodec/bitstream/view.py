"""Which of the known values a network of the context model is given. A model's file says by number which view it was made
for, and is read by that one for ever."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from latentcodec.bitstream.lattice import CROSS, REACH, Offsets, Pass
from latentcodec.bitstream.network import DOUBLE, SINGLE, Precision


@dataclass(frozen=True)
class LowerMap:
    """A map that is kept of every channel before: sums over `offsets`, shifted right by `shift`."""

    offsets: Offsets
    shift: int
    seen: Offsets
    """From a position to where it is looked at; at most one row or column away."""


@dataclass(frozen=True)
class View:
    """What is seen, in units of the channel's spread, and how it is calculated with."""

    precision: Precision
    lower: tuple[LowerMap, ...]
    """Of each channel before, beside the logarithm of how far its predictions were off."""
    farther: Mapping[str, Offsets] = field(default_factory=dict)
    """Of the own channel: by a pass's kind, in units of its distance, known values beside its neighbours."""

    def own(self, each: Pass) -> Offsets:
        """(rows, columns) from a position to the known values of the own channel; a pass's neighbours come first."""
        farther = self.farther.get(each.kind, ())
        return (*each.neighbours, *((rows * each.distance, columns * each.distance) for rows, columns in farther))

    @cached_property
    def seen(self) -> list[tuple[int, tuple[int, int]]]:
        """What is seen of a channel before: number of the map and offset; the last map is the logarithm."""
        maps = [(number, offset) for number, kept in enumerate(self.lower) for offset in kept.seen]
        return [*maps, (len(self.lower), (0, 0))]

    def input_count(self, channel: int, each: Pass) -> int:
        """Of a network: values of the own channel and the error around, what is seen of the channels before, the step."""
        own = len(self.own(each))
        return own + bool(own) + len(self.seen) * channel + 1

    def lower_maps(
        self, padded: Int64[np.ndarray, "_ _"], height: int, width: int
    ) -> list[Int64[np.ndarray, "height width"]]:
        """What is kept of a channel's values, which have zeros on each side."""
        return [offset_sum(padded, kept.offsets, height, width) >> kept.shift for kept in self.lower]


def offset_sum(
    padded: Int64[np.ndarray, "_ _"], offsets: Offsets, height: int, width: int
) -> Int64[np.ndarray, "height width"]:
    """At each position, the sum over the positions that lie so far from it; there are REACH zeros on each side."""
    total = np.zeros((height, width), np.int64)
    for down, right in offsets:
        total += padded[REACH + down : REACH + down + height, REACH + right : REACH + right + width]
    return total


_HERE: Offsets = ((0, 0),)
SQUARE: Offsets = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))

VIEWS = {
    # The value at the position and the mean of the four around it.
    1: View(DOUBLE, (LowerMap(_HERE, 0, _HERE), LowerMap(CROSS, 2, _HERE))),
    # All nine values, and a wider look at the own channel.
    2: View(
        SINGLE,
        (LowerMap(_HERE, 0, SQUARE),),
        {
            "diagonal": ((-1, -3), (-1, 3), (1, -3), (1, 3), (-3, -1), (-3, 1), (3, -1), (3, 1)),
            "row": ((-2, -1), (-2, 1), (2, -1), (2, 1), (-3, 0), (3, 0)),
            "column": ((-1, -2), (-1, 2), (1, -2), (1, 2), (-2, -1), (-2, 1), (2, -1), (2, 1)),
        },
    ),
}
"""By the version of a model's file."""
NEWEST = max(VIEWS)
