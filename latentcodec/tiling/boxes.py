"""Rectangles of positions in a feature map."""

from collections.abc import Iterator
from typing import NamedTuple


class Size(NamedTuple):
    """Of a whole feature map, in positions."""

    height: int
    width: int


class Box(NamedTuple):
    """A rectangle of positions; `bottom` and `right` are the first that are not in it."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def within(self, outer: "Box") -> tuple[slice, slice]:
        """Rows and columns of this box in an array that holds `outer`."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )

    def middle_rows(self) -> "Box":
        """The middle eighth of the rows, at least one."""
        rows = max(1, self.height // 8)
        top = self.top + (self.height - rows) // 2
        return Box(top, self.left, top + rows, self.right)


def whole(size: Size) -> Box:
    """The box of everything."""
    return Box(0, 0, size.height, size.width)


def grid(size: Size, height: int, width: int) -> Iterator[Box]:
    """Boxes of at most `height` x `width` that cover a map once, in rows."""
    for top in range(0, size.height, height):
        for left in range(0, size.width, width):
            yield Box(top, left, min(top + height, size.height), min(left + width, size.width))


class Reach(NamedTuple):
    """What outputs start ... stop-1 of a convolution read along one axis."""

    start: int
    stop: int
    zeros_before: int
    """Positions read before the map's first, which are zero."""
    zeros_after: int


def reach(start: int, stop: int, length: int, *, kernel: int, stride: int, before: int) -> Reach:
    """The inputs of a convolution for outputs start ... stop-1, of a map `length` long and padded `before` its start."""
    low = start * stride - before
    high = (stop - 1) * stride - before + kernel
    return Reach(max(low, 0), min(high, length), max(-low, 0), max(high - length, 0))
