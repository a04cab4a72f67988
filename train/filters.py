"""Gaussian smoothing of images by shifted sums.

Not a convolution on purpose: cuDNN may run fp32 convolutions in TF32, whose error of about 5e-4 is as large as the
constants that keep SSIM's small variances apart. Shifted sums are exact fp32 on every device, differentiable, and
repeatable bit for bit.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def gaussian_window(sigma: float, radius: int) -> list[float]:
    """`2 * radius + 1` samples of a Gaussian, with sum 1."""
    samples = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-radius, radius + 1)]
    return [sample / sum(samples) for sample in samples]


def blur_inside(
    images: Float[Tensor, "batch channels height width"], *, sigma: float = 1.5, radius: int = 5
) -> Float[Tensor, "batch channels inner_height inner_width"]:
    """Gaussian mean where the whole window lies inside the image: each side loses `2 * radius` pixels."""
    window = gaussian_window(sigma, radius)
    for axis in (2, 3):
        length = images.shape[axis] - 2 * radius
        if length < 1:
            raise ValueError(f"sides {tuple(images.shape[2:])}: a window of {len(window)} pixels does not fit inside")
        total = window[0] * images.narrow(axis, 0, length)
        for start, weight in enumerate(window[1:], start=1):
            total = total + weight * images.narrow(axis, start, length)
        images = total
    return images


def blur(
    images: Float[Tensor, "batch channels height width"], *, sigma: float = 1.5, radius: int = 5
) -> Float[Tensor, "batch channels height width"]:
    """Gaussian mean over the part of the window that lies inside the image: same size; a constant stays constant."""
    padding = (radius, radius, radius, radius)
    inside = torch.ones_like(images[:1, :1])
    return blur_inside(F.pad(images, padding), sigma=sigma, radius=radius) / blur_inside(
        F.pad(inside, padding), sigma=sigma, radius=radius
    )
