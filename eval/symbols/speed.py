"""How fast the entropy coder is alone, and what share of compressing is the network."""

import statistics
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64

from eval.pairing import paired, timed, timed_result
from eval.rate.codec import Picture
from latentcodec.bitstream.codec import ImageCodec
from latentcodec.bitstream.context import Maps
from latentcodec.bitstream.entropy import Decoder, Encoder
from latentcodec.bitstream.lattice import Pass
from latentcodec.bitstream.tables import Split

Coded = list[tuple[Int64[np.ndarray, " _"], Split]]
"""The integers of an image in coding order, part by part, and where the context model says to look for them."""
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class CoderSeconds:
    """Of one image's integers, contexts known; medians."""

    symbols: int
    add: float
    """Integers to symbols of their tables."""
    finish: float
    """Entropy coding: `Encoder.finish`."""
    take: float
    """Entropy decoding: `Decoder.take`, with symbols back to integers."""


def coding_order(codec: ImageCodec, integers: Maps, step_index: int) -> Coded:
    """What the entropy coder is given for these integers."""
    found: Coded = []

    def choose(channel: int, each: Pass, expected: Int64[np.ndarray, " n"], where: Split) -> Int64[np.ndarray, " n"]:
        rows, columns = each.slices()
        values = integers[channel, rows, columns].ravel()
        found.append((values, where))
        return values

    _, height, width = integers.shape
    codec.model.context.run(height, width, step_index, choose)
    return found


def coder_seconds(codec: ImageCodec, coded: Coded, rounds: int) -> CoderSeconds:
    """Time the entropy coder."""
    bank = codec.model.bank()
    add, finish, take = (
        statistics.median(each) for each in zip(*(_round(bank, coded) for _ in range(rounds)), strict=True)
    )
    return CoderSeconds(sum(len(values) for values, _ in coded), add, finish, take)


def _round(bank: Float32[np.ndarray, "rows symbols"], coded: Coded) -> tuple[float, float, float]:
    """Seconds to add, finish and take; the integers must come back."""
    encoder = Encoder(bank)

    def add_all() -> None:
        for values, where in coded:
            encoder.add(values, where)

    add = timed(add_all, _CPU)
    (words, bits), finish = timed_result(encoder.finish, _CPU)
    decoder = Decoder(bank, words, bits)
    back, take = timed_result(lambda: [decoder.take(where) for _, where in coded], _CPU)
    if not all(np.array_equal(values, one) for (values, _), one in zip(coded, back, strict=True)):
        raise RuntimeError("the entropy coder gave other integers back, which is a bug")
    return add, finish, take


def network_shares(codec: ImageCodec, image: Picture, quality: float, effort: int, rounds: int) -> list[float]:
    """The time of the network over that of all of compressing, taken in turns; one for each round."""
    times = paired(
        lambda: codec.codec.encode_moments([image]),
        lambda: codec.compress(image, quality=quality, effort=effort),
        rounds=rounds, device=codec.codec.device, warm_up=0,
    )  # fmt: skip
    return [network / whole for network, whole in zip(times.ours, times.other, strict=True)]
