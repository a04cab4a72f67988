"""What is known of an image's coefficients so far, and the inputs that are cut from it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64

from latentcodec.bitstream.integers import integer_log2
from latentcodec.bitstream.lattice import REACH, Pass, passes
from latentcodec.bitstream.view import SQUARE, View, offset_sum

Part = tuple[slice, slice]
"""Rows and columns of a padded map."""


@dataclass(frozen=True)
class Looks:
    """Where the positions of a pass look in the padded maps of an image of one size."""

    shape: tuple[int, int]
    here: Part
    own: tuple[Part, ...]
    """Values of the own channel."""
    errors: tuple[Part, ...]
    lower: tuple[tuple[int, int, int, Part], ...]
    """Of the channels before: parity of row and column, number of the map."""


class Known:
    """Maps of one image, at one step.

    Args:
        view: what is seen of them.
        scales: of each channel, in units of RESOLUTION.
        log2: table of logarithms.
        step: of the quantiser, in units of RESOLUTION.
        log2_step: its logarithm, in 1 / LOG_UNIT octaves.
        height, width: of the latents.
    """

    def __init__(
        self, view: View, scales: Int64[np.ndarray, " channels"], log2: Int64[np.ndarray, " entries"],
        step: int, log2_step: int, height: int, width: int,
    ) -> None:  # fmt: skip
        self.view, self.scales, self.log2, self.step, self.log2_step = view, scales, log2, step, log2_step
        self.height, self.width = height, width
        self.precision = view.precision
        self.log2_scales = integer_log2(scales, log2)
        self._looks = {each.index: _looks(view, each, height, width) for each in passes()}
        maps = len(view.lower) + 1
        half = ((height + 1) // 2 + 2, (width + 1) // 2 + 2)
        self._lower: Float32[np.ndarray, "2 2 channels maps rows columns"] = np.zeros(
            (2, 2, len(scales), maps, *half), np.float32
        )
        """Of each channel before: the maps of the view, logarithm of how far predictions were off; by parity of row and
        column, since most passes look at every other position. A zero on each side."""

    def begin_channel(self) -> None:
        """Nothing of the next channel is known."""
        padded = (self.height + 2 * REACH, self.width + 2 * REACH)
        self._values = np.zeros(padded, np.int64)
        self._limited = np.zeros(padded, self.precision.dtype)  # as inputs; sums are of all
        self._errors = np.zeros(padded, np.int64)

    def learn(
        self,
        channel: int,
        each: Pass,
        values: Int64[np.ndarray, "rows columns"],
        expected: Int64[np.ndarray, "rows columns"],
    ) -> None:
        """The values of a pass and what had been expected, both in units of RESOLUTION."""
        here = self._looks[each.index].here
        scaled = values * self.precision.unit // self.scales[channel]
        self._values[here] = scaled
        self._limited[here] = self._clipped(scaled)
        self._errors[here] = np.abs(values - expected)

    def end_channel(self, channel: int) -> None:
        """All of a channel is known: prepare what the channels after it look at."""
        errors = offset_sum(self._errors, SQUARE, self.height, self.width)
        found = (*self.view.lower_maps(self._values, self.height, self.width), self._log(errors, len(SQUARE)))
        for place, known in enumerate(found):
            limited = self._clipped(known)
            for row in (0, 1):
                for column in (0, 1):
                    part = limited[row::2, column::2]
                    self._lower[row, column, channel, place, 1 : 1 + len(part), 1 : 1 + part.shape[1]] = part

    def inputs(self, channel: int, each: Pass) -> Float[np.ndarray, "rows n"]:
        """What the network of this channel and pass is given: `View.input_count` rows, and a row of ones."""
        looks = self._looks[each.index]
        given = np.empty((self.view.input_count(channel, each) + 1, *looks.shape), self.precision.dtype)
        for place, part in enumerate(looks.own):
            given[place] = self._limited[part]
        own = len(looks.own)
        if own:
            errors = self._errors[looks.errors[0]].copy()
            for part in looks.errors[1:]:
                errors += self._errors[part]
            given[own] = self._clipped(self._log(errors, len(looks.errors)))
            own += 1
        lower = given[own:-2].reshape(channel, len(looks.lower), *looks.shape)
        for place, (row, column, number, part) in enumerate(looks.lower):
            lower[:, place] = self._lower[row, column, :channel, number, *part]
        given[-2] = self._clipped(self._in_unit(self.log2_step - self.log2_scales[channel : channel + 1]))
        given[-1] = 1
        return given.reshape(len(given), -1)

    def _clipped(self, values: Int64[np.ndarray, "*shape"]) -> Int64[np.ndarray, "*shape"]:
        return np.clip(values, -self.precision.limit, self.precision.limit)

    def _in_unit(self, logarithm: Int64[np.ndarray, "*shape"]) -> Int64[np.ndarray, "*shape"]:
        """Of the precision, from 1 / LOG_UNIT."""
        return logarithm >> self.precision.coarser

    def _log(self, errors: Int64[np.ndarray, "*shape"], count: int) -> Int64[np.ndarray, "*shape"]:
        """log2 of the mean error in steps; half a step is added, which quantisation hides."""
        return self._in_unit(
            integer_log2(2 * errors + count * self.step, self.log2)
            - self.log2_step
            - integer_log2(np.array([2 * count], np.int64), self.log2)
        )


def _looks(view: View, each: Pass, height: int, width: int) -> Looks:
    shape = len(range(each.row, height, each.stride)), len(range(each.column, width, each.stride))

    def part(row: int, column: int, stride: int) -> Part:
        rows, columns = (
            slice(first, first + (count - 1) * stride + 1, stride) if count else slice(0)
            for first, count in zip((row, column), shape, strict=True)
        )
        return rows, columns

    def padded(offset: tuple[int, int]) -> Part:
        return part(REACH + each.row + offset[0], REACH + each.column + offset[1], each.stride)

    def halved(number: int, offset: tuple[int, int]) -> tuple[int, int, int, Part]:
        row, column = each.row + offset[0], each.column + offset[1]
        return row % 2, column % 2, number, part(row // 2 + 1, column // 2 + 1, each.stride // 2)

    return Looks(
        shape,
        padded((0, 0)),
        tuple(map(padded, view.own(each))),
        tuple(map(padded, each.neighbours)),
        tuple(halved(*seen) for seen in view.seen),
    )
