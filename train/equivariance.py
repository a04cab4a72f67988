"""Equivariance of the latents under scaling and rotation: EQ-VAE (Kouzelis et al., arXiv 2502.09509).

A step with a transform decodes tau(z) and compares with tau(x), so every loss term acts on the transformed pair.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Transform:
    """tau: scale by `scale_32nds` / 32, then turn by `quarter_turns` x 90 degrees."""

    scale_32nds: int
    quarter_turns: int

    @property
    def scale(self) -> float:
        """The scale as a ratio in (0, 1]."""
        return self.scale_32nds / 32

    def output_size(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        """Height and width in latent cells before the turn, at least 4 so that every discriminator and loss has room."""
        return max(4, round(latent_height * self.scale)), max(4, round(latent_width * self.scale))

    def _apply(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        # Interpolation in fp32 with antialiasing: the transform itself must not add the error that it measures.
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


def draw_transform(rng: np.random.Generator, min_scale: float) -> Transform:
    """A scale drawn evenly in 32nds from [min_scale, 1) and a turn by 0, 90, 180 or 270 degrees."""
    low = max(1, round(min_scale * 32))
    return Transform(scale_32nds=int(rng.integers(low, 32)), quarter_turns=int(rng.integers(0, 4)))
