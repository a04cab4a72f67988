"""Scalings and quarter turns that act alike on images and on latents: EQ-VAE (Kouzelis et al., arXiv 2502.09509).

An encoder E is equivariant where E(tau(x)) = tau(E(x)): what is done to the latents is what is done to the image.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

Resampling = Literal["bicubic", "area"]
"""How maps are scaled, both without aliasing. "bicubic" is what training uses. "area" gives each cell of the new grid the
mean of what it covers of the old one. By 1/2, 1/4, 1/8 and by turns it commutes exactly with the means of blocks of pixels,
and so measures a network without an error of its own."""


@dataclass(frozen=True)
class Transform:
    """tau: scale by `scale_32nds` / 32, then turn by `quarter_turns` x 90 degrees."""

    scale_32nds: int
    quarter_turns: int
    resampling: Resampling = "bicubic"

    @property
    def scale(self) -> float:
        """The scale as a ratio in (0, 1]."""
        return self.scale_32nds / 32

    def output_size(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        """Height and width in latent cells before the turn, at least 4 so that every discriminator and loss has room."""
        return max(4, round(latent_height * self.scale)), max(4, round(latent_width * self.scale))

    def _apply(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        # In fp32: the transform itself must not add the error that it measures.
        if self.resampling == "area":
            scaled = resample_area(maps.float(), size)
        else:
            scaled = F.interpolate(maps.float(), size=size, mode="bicubic", antialias=True, align_corners=False)
        return torch.rot90(scaled, self.quarter_turns, dims=(2, 3))

    def latents(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels newh neww"]:
        """tau(z)."""
        return self._apply(latents, self.output_size(*latents.shape[2:]))

    def images(
        self, images: Float[Tensor, "batch 3 height width"], factor: int = 8
    ) -> Float[Tensor, "batch 3 newheight newwidth"]:
        """tau(x), `factor` times the size of the matching tau(z)."""
        height, width = self.output_size(images.shape[2] // factor, images.shape[3] // factor)
        return self._apply(images, (height * factor, width * factor)).clamp(-1, 1)


def resample_area(
    maps: Float[Tensor, "batch channels height width"], size: tuple[int, int]
) -> Float[Tensor, "batch channels newh neww"]:
    """Scale to `size` (height, width): each new cell is the mean of the old ones it covers, parts of cells included."""
    rows, columns = (area_weights(old, new).to(maps) for old, new in zip(maps.shape[2:], size, strict=True))
    return rows @ maps @ columns.T


def area_weights(old: int, new: int) -> Float64[Tensor, "new old"]:
    """Share of each of `old` cells in each of the `new` cells that divide the same length; rows sum to 1."""
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    cells = torch.arange(old, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], cells + 1) - torch.maximum(edges[:-1, None], cells)
    return overlap.clamp(min=0) * new / old
