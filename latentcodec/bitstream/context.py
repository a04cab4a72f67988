"""What is known -> expected value and spread of the next integers, by one small integer network for each channel and
pass.

A network sees, in units of its channel's spread: known values around the position, in its channel and in every channel
before (which ones, `view.py` says); as logarithms: how far the predictions around it were off, in its own channel and in
each before, and the step. It gives the expected value (on top of a linear one) and the logarithm of the spread.
Weights, inputs and what is in between are integers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from latentcodec.bitstream.integers import LOG_UNIT
from latentcodec.bitstream.known import Known
from latentcodec.bitstream.lattice import Pass, passes
from latentcodec.bitstream.network import Network
from latentcodec.bitstream.tables import Split, class_of, split
from latentcodec.bitstream.view import VIEWS, View
from latentcodec.threads import one_blas_thread

Maps = Int64[np.ndarray, "channels height width"]
Choose = Callable[[int, Pass, Int64[np.ndarray, " n"], Split], Int64[np.ndarray, " n"]]
"""Called with channel, pass, expected value (in eighths of the step) and split of all positions of the pass; gives their
integers: the decoder's, or the encoder's own."""


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
    """Of the model's file: says what the networks see and how they calculate."""

    @property
    def view(self) -> View:
        return VIEWS[self.version]

    @property
    def channels(self) -> int:
        return len(self.scales)

    def known(self, grid: tuple[int, ...], step_index: int) -> Known:
        """Nothing, yet, of latents of this height and width."""
        step, log2_step = int(self.steps[step_index]), int(self.log2_steps[step_index])
        return Known(self.view, self.scales, self.log2, step, log2_step, *grid)

    @one_blas_thread()
    def run(self, height: int, width: int, step_index: int, choose: Choose) -> Maps:
        """Go through all positions in coding order; returns the integers that `choose` gave."""
        known = self.known((height, width), step_index)
        step, log2_step = known.step, known.log2_step
        integers = np.zeros((self.channels, height, width), np.int64)
        for channel in range(self.channels):
            known.begin_channel()
            for each in passes():
                rows, columns = each.slices()
                shape = integers[channel, rows, columns].shape
                if 0 in shape:
                    continue
                output = self.networks[channel, each.index](known.inputs(channel, each))
                value = (output[0] * self.scales[channel]) // LOG_UNIT
                log2_spread = output[1] + known.log2_scales[channel]
                expected = (8 * value + step // 2) // step
                where = split(expected, class_of(log2_spread, log2_step, LOG_UNIT))
                chosen = choose(channel, each, expected, where).reshape(shape)
                integers[channel, rows, columns] = chosen
                known.learn(channel, each, chosen * step, value.reshape(shape))
            known.end_channel(channel)
        return integers
