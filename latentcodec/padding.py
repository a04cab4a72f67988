"""Sides that are no multiple of the VAE's factor: padded by reflection below and to the right, cropped back later."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def padded_side(side: int, factor: int) -> int:
    """The smallest multiple of `factor` that is not below `side`."""
    return -(-side // factor) * factor


def reflect_pad(
    images: Float[Tensor, "batch channels height width"], factor: int
) -> Float[Tensor, "batch channels padded_height padded_width"]:
    """Pad images to multiples of `factor`; those that are multiples already are returned as they are.

    The image is mirrored about its last row and column, which are not repeated. Where it is smaller than the padding
    the reflection goes back and forth; one single row or column is repeated.
    """
    for dim in (2, 3):
        side = images.shape[dim]
        if side % factor:
            images = images.index_select(dim, _reflection(side, padded_side(side, factor)).to(images.device))
    return images


def crop_back(
    images: Float[Tensor, "*batch channels padded_height padded_width"], size: tuple[int, int]
) -> Float[Tensor, "*batch channels height width"]:
    """The part of padded images that was there before: `size` is (height, width). A view."""
    return images[..., : size[0], : size[1]]


def _reflection(side: int, padded: int) -> Int[Tensor, " padded"]:
    """For each padded position the one it mirrors: 0 1 2 1 0 1 ... for a side of 3."""
    period = max(2 * (side - 1), 1)
    position = torch.arange(padded) % period
    return torch.minimum(position, period - position) if side > 1 else torch.zeros_like(position)
