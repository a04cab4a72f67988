"""Code lengths of static tables, whose cost is ignored in their favour: they are counted on what they then code."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from latentcodec.bitstream.context import Maps


@dataclass(frozen=True, eq=False)
class Counts:
    """How often each integer occurs in each channel."""

    channels: tuple[Counter[int], ...]

    @classmethod
    def of(cls, integers: Maps) -> "Counts":
        """Of one image's integers, [channels, height, width]."""
        found = (np.unique(channel, return_counts=True) for channel in integers)
        return cls(tuple(Counter(dict(zip(*(each.tolist() for each in pair), strict=True))) for pair in found))

    def merged(self) -> "Counts":
        """All channels as one: what a table knows that does not tell them apart."""
        return Counts((sum(self.channels, Counter()),))


def pooled(counts: Iterable[Counts]) -> Counts:
    """Of several images together."""
    return Counts(tuple(sum(each, Counter()) for each in zip(*(one.channels for one in counts), strict=True)))


def code_length(counts: Counts, tables: Counts) -> float:
    """Bits of integers that occur as `counts` says, with a table for each channel whose probabilities are the shares of
    `tables`: -sum n log2 p, what an ideal entropy coder needs. `counts` must be part of `tables`."""
    total = 0.0
    for here, table in zip(counts.channels, tables.channels, strict=True):
        numbers = np.array(list(here.values()), np.float64)
        shares = np.array([table[value] for value in here], np.float64) / table.total()
        total -= float((numbers * np.log2(shares)).sum())
    return total
