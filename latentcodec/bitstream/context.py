"""What is known -> expected value and spread of the next integers, by one small integer network for each channel and
pass.

A network sees, in units of its channel's spread: known values around the position, in its channel and in every channel
before (which ones, `view.py` says); as logarithms: how far the predictions around it were off, in its own channel and in
each before, and the step. It gives the expected value (on top of a linear one) and the logarithm of the spread.
Weights, inputs and what is in between are integers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64, Int64

from latentcodec.bitstream.integers import LOG_UNIT, integer_log2, product
from latentcodec.bitstream.lattice import REACH, Pass, passes
from latentcodec.bitstream.tables import Split, class_of, split
from latentcodec.bitstream.view import SQUARE, VIEWS, View, offset_sum, shifted

INPUT_LIMIT = 2**15
"""Inputs are clipped to this; LOG_UNIT is one."""
WEIGHT_UNIT = 4096
"""Weights are in units of 1 / WEIGHT_UNIT and int16."""
HIDDEN_LIMIT = 2**20

Maps = Int64[np.ndarray, "channels height width"]
Choose = Callable[[int, Pass, Int64[np.ndarray, " n"], Split], Int64[np.ndarray, " n"]]
"""Called with channel, pass, expected value (in eighths of the step) and split of all positions of the pass; gives their
integers: the decoder's, or the encoder's own."""


@dataclass(frozen=True, eq=False)
class Network:
    """inputs -> hidden -> hidden -> 2, with ReLU, and a linear path beside; integers in float64."""

    first: Float64[np.ndarray, "inputs hidden"]
    first_bias: Float64[np.ndarray, " hidden"]
    second: Float64[np.ndarray, "hidden hidden"]
    second_bias: Float64[np.ndarray, " hidden"]
    last: Float64[np.ndarray, "hidden 2"]
    linear: Float64[np.ndarray, "inputs 2"]
    last_bias: Float64[np.ndarray, " 2"]

    def __call__(self, inputs: Float64[np.ndarray, "inputs n"]) -> Int64[np.ndarray, "2 n"]:
        """Expected value and log2 of the spread, in units of 1 / LOG_UNIT (of the channel's spread; octaves), from
        integers in -INPUT_LIMIT ... INPUT_LIMIT."""
        sums = product(self._first_and_linear, inputs)
        hidden = _layer(sums[: len(self.first_bias)], self.first_bias)
        hidden = _layer(product(self.second.T, hidden), self.second_bias)
        out = product(self.last.T, hidden) + sums[len(self.first_bias) :] + self.last_bias[:, None]
        return np.floor(out / WEIGHT_UNIT).astype(np.int64)

    @cached_property
    def _first_and_linear(self) -> Float64[np.ndarray, "outputs inputs"]:
        """Both look at the inputs, and one product takes less time than two."""
        return np.ascontiguousarray(np.concatenate([self.first, self.linear], axis=1).T)


def _layer(
    sums: Float64[np.ndarray, "hidden n"], bias: Float64[np.ndarray, " hidden"]
) -> Float64[np.ndarray, "hidden n"]:
    """In the memory of `sums`."""
    sums += bias[:, None]
    sums /= WEIGHT_UNIT
    np.floor(sums, out=sums)
    return np.clip(sums, 0, HIDDEN_LIMIT, out=sums)


@dataclass(frozen=True, eq=False)
class ContextModel:
    """The networks, and the integers that their inputs are made with."""

    networks: dict[tuple[int, int], Network]
    """By channel and index of the pass."""
    scales: Int64[np.ndarray, " channels"]
    """Of each channel: the spread of its coefficients, in units of `transform.RESOLUTION`; at least 1."""
    steps: Int64[np.ndarray, " steps"]
    log2_steps: Int64[np.ndarray, " steps"]
    log2: Int64[np.ndarray, " entries"]
    version: int
    """Of the model's file: says what the networks see."""

    @property
    def view(self) -> View:
        return VIEWS[self.version]

    @property
    def channels(self) -> int:
        return len(self.scales)

    def run(self, height: int, width: int, step_index: int, choose: Choose) -> Maps:
        """Go through all positions in coding order; returns the integers that `choose` gave."""
        step, log2_step = int(self.steps[step_index]), int(self.log2_steps[step_index])
        integers = np.zeros((self.channels, height, width), np.int64)
        known = Known(self, step, log2_step, height, width)
        for channel in range(self.channels):
            known.begin_channel()
            for each in passes():
                rows, columns = each.slices()
                shape = integers[channel, rows, columns].shape
                if 0 in shape:
                    continue
                output = self.networks[channel, each.index](known.inputs(channel, each))
                value = (output[0] * self.scales[channel]) // LOG_UNIT
                log2_spread = output[1] + integer_log2(self.scales[channel : channel + 1], self.log2)
                expected = (8 * value + step // 2) // step
                where = split(expected, class_of(log2_spread, log2_step, LOG_UNIT))
                chosen = choose(channel, each, expected, where).reshape(shape)
                integers[channel, rows, columns] = chosen
                known.learn(channel, each, chosen * step, value.reshape(shape))
            known.end_channel(channel)
        return integers


class Known:
    """What is known of an image's coefficients so far, as maps that inputs are cut from."""

    def __init__(self, model: ContextModel, step: int, log2_step: int, height: int, width: int) -> None:
        self.model, self.step, self.log2_step = model, step, log2_step
        self.height, self.width = height, width
        maps = len(model.view.lower) + 1
        self.lower: Float32[np.ndarray, "channels maps rows columns"] = np.zeros(
            (model.channels, maps, height + 2, width + 2), np.float32
        )
        """Of each channel before: the maps of the view, logarithm of how far predictions were off. A zero on each side."""

    def begin_channel(self) -> None:
        """Nothing of the next channel is known."""
        padded = (self.height + 2 * REACH, self.width + 2 * REACH)
        self.values = np.zeros(padded, np.int64)
        self.errors = np.zeros(padded, np.int64)

    def learn(
        self,
        channel: int,
        each: Pass,
        values: Int64[np.ndarray, "rows columns"],
        expected: Int64[np.ndarray, "rows columns"],
    ) -> None:
        """The values of a pass and what had been expected, both in units of RESOLUTION."""
        rows, columns = each.slices()
        self._inside(self.values)[rows, columns] = self._scaled(values, channel)
        self._inside(self.errors)[rows, columns] = np.abs(values - expected)

    def end_channel(self, channel: int) -> None:
        """All of a channel is known: prepare what the channels after it look at."""
        errors = offset_sum(self.errors, SQUARE, self.height, self.width)
        found = (*self.model.view.lower_maps(self.values, self.height, self.width), self._log(errors, len(SQUARE)))
        for place, known in enumerate(found):
            inside = self.lower[channel, place, 1:-1, 1:-1]
            np.clip(known, -INPUT_LIMIT, INPUT_LIMIT, out=inside, casting="unsafe")

    def inputs(self, channel: int, each: Pass) -> Float64[np.ndarray, "inputs n"]:
        """What the network of this channel and pass is given: `View.input_count` rows."""
        rows, columns = each.slices()
        shape = self._inside(self.values)[rows, columns].shape
        given = np.empty((self.model.view.input_count(channel, each), *shape))
        offsets = self.model.view.own(each)
        for place, offset in enumerate(offsets):
            given[place] = self._part(self.values, offset)[rows, columns]
        own = len(offsets)
        if own:
            errors = np.zeros(shape, np.int64)
            for offset in each.neighbours:
                errors += self._part(self.errors, offset)[rows, columns]
            given[own] = self._log(errors, len(each.neighbours))
            own += 1
        given[-1] = self.log2_step - int(integer_log2(self.model.scales[channel : channel + 1], self.model.log2)[0])
        for limited in (given[:own], given[-1:]):
            np.clip(limited, -INPUT_LIMIT, INPUT_LIMIT, out=limited)
        seen = self.model.view.seen
        lower = given[own:-1].reshape(channel, len(seen), *shape)
        for place, (number, offset) in enumerate(seen):
            part = shifted(self.lower[:channel, number], offset, self.height, self.width)
            lower[:, place] = part[:, rows, columns]  # limited before
        return given.reshape(len(given), -1)

    def _part(self, padded: Int64[np.ndarray, "_ _"], offset: tuple[int, int]) -> Int64[np.ndarray, "height width"]:
        return shifted(padded, offset, self.height, self.width)

    def _inside(self, padded: Int64[np.ndarray, "_ _"]) -> Int64[np.ndarray, "height width"]:
        return self._part(padded, (0, 0))

    def _scaled(self, values: Int64[np.ndarray, "*shape"], channel: int) -> Int64[np.ndarray, "*shape"]:
        return values * LOG_UNIT // self.model.scales[channel]

    def _log(self, errors: Int64[np.ndarray, "*shape"], count: int) -> Int64[np.ndarray, "*shape"]:
        """log2 of the mean error in steps; half a step is added, which quantisation hides."""
        return (
            integer_log2(2 * errors + count * self.step, self.model.log2)
            - self.log2_step
            - integer_log2(np.array([2 * count], np.int64), self.model.log2)
        )
