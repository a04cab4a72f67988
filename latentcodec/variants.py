"""Variants of images: their latents, moved as an `Augmentation` says."""

import hashlib
import json
from collections.abc import Sequence

import torch

from latentcodec.augmentation import Augmentation
from latentcodec.codec import LatentCodec
from latentcodec.latents import Latents, Moments


def variants(
    codec: LatentCodec,
    moments: Moments,
    augmentation: Augmentation,
    *,
    seed: int = 0,
    keys: Sequence[tuple[str, int]],
) -> Latents:
    """Latents of variants: the posterior's means, displaced.

    Args:
        moments: of the images, from `codec.encode_moments`.
        keys: of each, the image's id and the number of the variant: with `seed` all that the displacement depends on.

    Raises:
        ValueError: not one key for each image.
    """
    if len(keys) != len(moments):
        raise ValueError(f"keys: expected one for each of {len(moments)} images, found {len(keys)}")
    moved = []
    for mean, logvar, (id, number) in zip(moments.mean, moments.logvar, keys, strict=True):
        deviation = codec.scaling.apply_to_deviation(torch.exp(0.5 * logvar))
        displacement = augmentation.displacement(deviation, seed_of(seed, id, number))
        moved.append(codec.scaling.apply(mean) + displacement.to(mean.device))
    return Latents(tuple(moved), moments.sizes, moments.methods)


def seed_of(seed: int, id: str, number: int) -> int:
    """A generator's seed, 63 bits, for one variant of one image."""
    digest = hashlib.blake2b(json.dumps([seed, id, number]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
