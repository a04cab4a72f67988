"""What is random in a row that is read: a pure function of the seed, the row and the epoch, in whatever process."""

import hashlib
import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_MIRROR, _NOISE, _AUGMENTATION = range(3)


class Draw(NamedTuple):
    """A row in an epoch: what a sampler asks a `LatentDataset` for. Each epoch has its own draw from the posterior."""

    row: int
    epoch: int


def is_mirrored(seed: int, draw: Draw, probability: float) -> bool:
    """Whether to take the mirrored image."""
    return _number(seed, draw, _MIRROR) < probability * 2**64


def noises(seed: int, draws: Sequence[Draw], shape: Sequence[int]) -> Float[Tensor, "draws ..."]:
    """Standard normal float32 of that shape for each draw, from generators on the CPU as in `Moments.sample`."""
    filled, generator = torch.empty(len(draws), *shape), torch.Generator()
    for place, draw in enumerate(draws):
        generator.manual_seed(_number(seed, draw, _NOISE) >> 1)  # it takes 63 bits, and uses 32
        filled[place].normal_(generator=generator)
    return filled


def augmentation_seed(seed: int, draw: Draw) -> int:
    """Of the generator that a row's augmentation is drawn from in this epoch; 63 bits."""
    return _number(seed, draw, _AUGMENTATION) >> 1


def _number(seed: int, draw: Draw, purpose: int) -> int:
    """64 bits for each purpose, so that one leaves the others alone."""
    text = struct.pack("<4q", seed, draw.row, draw.epoch, purpose)
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
