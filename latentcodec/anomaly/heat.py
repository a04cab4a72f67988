"""A map of strangeness over its image."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

WARM, HOT = 2.0, 8.0
"""Deviations of normal places: below the first nothing is shown, from the second on nothing is added."""

_RED = np.array([255.0, 40.0, 0.0])


def heat_over(
    image: UInt8[np.ndarray, "height width 3"], heat: Float[Tensor, "rows columns"]
) -> UInt8[np.ndarray, "height width 3"]:
    """The image in grey, and red where it is strange."""
    height, width = image.shape[:2]
    share = ((heat - WARM) / (HOT - WARM)).clamp(0, 1)
    large = F.interpolate(share[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0]
    grey = image.astype(np.float64).mean(axis=2, keepdims=True).repeat(3, axis=2)
    weight = 0.75 * large.numpy().astype(np.float64)[:, :, None]
    return np.rint((1 - weight) * grey + weight * _RED).astype(np.uint8)


def hottest_box(heat: Float[Tensor, "rows columns"], height: int, width: int) -> tuple[int, int, int, int] | None:
    """Top, left, height and width in pixels around the places connected to the hottest one that are warm; None if none is."""
    warm = heat > WARM
    peak = int(heat.argmax())
    if not warm.flatten()[peak]:
        return None
    region = torch.zeros_like(warm)
    region.view(-1)[peak] = True
    while True:  # grown by one place a round, until it no longer grows
        grown = (F.max_pool2d(region[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0) & warm
        if torch.equal(grown, region):
            break
        region = grown
    rows, columns = region.any(1).nonzero().flatten(), region.any(0).nonzero().flatten()
    down, across = height / heat.shape[0], width / heat.shape[1]
    top, left = int(rows[0] * down), int(columns[0] * across)
    bottom, right = round(float((rows[-1] + 1) * down)), round(float((columns[-1] + 1) * across))
    return top, left, bottom - top, right - left
