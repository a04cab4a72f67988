"""Encoders and decoders simple enough to know their figures beforehand."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from eval.images import NamedImage
from eval.latents.models import Posterior
from latentcodec.images.procedural import ProceduralSource


class PoolingModel:
    """Latents are means of blocks of pixels, one channel a colour; decoding repeats them. Exactly equivariant.

    Args:
        sideways: this much of the left half of each block minus its right half is added: turning breaks it, and scaling.
        squares: this much of the mean of squared pixels is added: scaling breaks it, turning does not.
    """

    def __init__(self, factor: int = 8, *, sideways: float = 0.0, squares: float = 0.0, logvar: float = -10.0) -> None:
        self.factor, self.sideways, self.squares, self.logvar = factor, sideways, squares, logvar

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Posterior:
        mean = F.avg_pool2d(images, self.factor)
        mean = mean + self.sideways * self.difference(images) + self.squares * F.avg_pool2d(images**2, self.factor)
        return Posterior(mean, torch.full_like(mean, self.logvar))

    def difference(self, images: Tensor) -> Tensor:
        """Left half minus right half of each block."""
        halves = F.avg_pool2d(images, (self.factor, self.factor // 2))
        return halves[..., 0::2] - halves[..., 1::2]

    def decode(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        return F.interpolate(latents, scale_factor=self.factor, mode="nearest")


def pictures(count: int, size: int = 64) -> list[NamedImage]:
    """Synthetic images with ids."""
    source = ProceduralSource(seed=5, size=size)
    return [NamedImage(source[index].id, source[index].decode()) for index in range(count)]
