"""The order in which the integers of a latent are coded, and which of them are known when.

Channel by channel. Within a channel coarse to fine: first every fourth position of every fourth row, then what lies
diagonally between, then what is left between in the rows, then in the columns; and once more at half the distance. All
positions of such a pass are coded at once. Known are then all channels before, everywhere, and of the channel itself
the passes before, so that most positions have neighbours on all sides.
"""

from dataclasses import dataclass

Offsets = tuple[tuple[int, int], ...]
"""(rows, columns) from a position to others."""
LEVELS = 2
"""Halvings of the distance."""
REACH = 3 * 2 ** (LEVELS - 1)
"""The farthest value of its own channel that a pass looks at, in rows or columns."""


@dataclass(frozen=True)
class Pass:
    """Positions (row + i * stride, column + j * stride), and the offsets of neighbours that are known then."""

    index: int
    """Place in the order."""
    kind: str
    """One of KINDS: passes of a kind differ in distance only."""
    row: int
    column: int
    stride: int
    distance: int
    """To the nearest neighbours; 0 for the first pass, which has none."""

    @property
    def neighbours(self) -> Offsets:
        """(rows, columns) from a position to each neighbour."""
        return tuple((rows * self.distance, columns * self.distance) for rows, columns in KINDS[self.kind])

    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of a map."""
        return slice(self.row, None, self.stride), slice(self.column, None, self.stride)


_DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))
CROSS = ((-1, 0), (1, 0), (0, -1), (0, 1))

# Neighbours in units of the distance. "row" positions lie between known ones of their row, and above and below them are
# the diagonal ones; when "column" is coded, all eight around are known.
KINDS: dict[str, Offsets] = {
    "first": (),
    "diagonal": _DIAGONAL,
    "row": (*CROSS, (-1, -2), (-1, 2), (1, -2), (1, 2), (0, -3), (0, 3)),
    "column": (*CROSS, *_DIAGONAL),
}


def passes() -> tuple[Pass, ...]:
    """All passes over one channel, in order; together they meet every position once."""
    found: list[tuple[str, int, int, int, int]] = [("first", 0, 0, 2**LEVELS, 0)]
    for level in reversed(range(LEVELS)):
        distance = 2**level
        found += [
            ("diagonal", distance, distance, 2 * distance, distance),
            ("row", 0, distance, 2 * distance, distance),
            ("column", distance, 0, 2 * distance, distance),
        ]
    return tuple(Pass(index, *each) for index, each in enumerate(found))


PASSES = 1 + 3 * LEVELS
