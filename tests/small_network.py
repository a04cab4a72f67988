"""A small network of features in place of Inception."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

FEATURES = 6


class SmallNetwork:
    """Six features of an image of any size: a random convolution, a rectifier, the mean over the image."""

    description = "six random features, no resize"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.randn(FEATURES, 3, 5, 5, generator=generator) / 5

    def batch(self, images: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        maps = torch.nn.functional.conv2d(images.float() / 127.5 - 1, self.weight, stride=2)
        return torch.relu(maps).mean((2, 3))

    def __call__(self, image: UInt8[np.ndarray, "height width 3"]) -> Float[np.ndarray, " features"]:
        return self.batch(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])[0].numpy()
