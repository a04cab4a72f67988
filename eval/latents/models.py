"""What is measured: anything that turns images into a posterior over latents, and latents into images."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from latentcodec.codec import LatentCodec
from latentcodec.latents import Moments, stacked


@dataclass(frozen=True, eq=False)
class Posterior:
    """A normal distribution at each position of raw (unscaled) latents."""

    mean: Float[Tensor, "batch channels height width"]
    logvar: Float[Tensor, "batch channels height width"]
    """Natural logarithm of the variance, clamped to [-30, 20] as diffusers does."""


@runtime_checkable
class LatentModel(Protocol):
    """A VAE, as far as measuring goes."""

    factor: int
    """Pixels to a latent position, along each side."""

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Posterior:
        """Of images in [-1, 1] whose sides are multiples of the factor."""
        ...

    def decode(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Images, nominally in [-1, 1], `factor` times as large as the raw latents."""
        ...


class CodecModel:
    """A `LatentCodec` as a `LatentModel`: results do not depend on what else is in a batch."""

    def __init__(self, codec: LatentCodec) -> None:
        self.codec = codec
        self.factor = codec.factor

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Posterior:
        """See `LatentCodec.encode_moments`, which also says what is raised."""
        moments = self.codec.encode_moments(images)
        return Posterior(stacked(moments.mean), stacked(moments.logvar))

    def decode(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """See `LatentCodec.decode`."""
        height, width = (side * self.factor for side in latents.shape[2:])
        raw = tuple(latents.to(torch.float32))
        points = tuple(
            torch.full_like(value, -30.0) for value in raw
        )  # the codec decodes raw latents as a posterior's mean
        moments = Moments(raw, points, ((height, width),) * len(raw), ("",) * len(raw))
        return self.codec.decode(moments).tensor
