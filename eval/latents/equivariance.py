"""Whether latents turn and shrink with their image: the error of E(tau(x)) against tau(E(x)), and of what is decoded.

EQ-VAE (Kouzelis et al., arXiv 2502.09509) finds that latents with less of this error are easier to learn for diffusion
models. tau scales by areas, so that the means of blocks of pixels have an error of exactly 0 under turns and under scales
of 1/2, 1/4, 1/8; other scales cut through blocks, and even these have some.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from eval.latents.disturbances import DecodedError, relative_change
from eval.latents.models import LatentModel
from latentcodec.images.pixels import to_uint8
from latentcodec.vae.equivariance import Transform


def transforms(scales: list[float], turns: list[int]) -> dict[str, Transform]:
    """By name: "scale 0.5", "turn 90".

    Args:
        scales: between 0 and 1, in 32nds; 1/2, 1/4 and 1/8 add no error of their own.
        turns: 90, 180 or 270 degrees, counter-clockwise.

    Raises:
        ValueError: others than these.
    """
    named = {}
    for scale in scales:
        if not (0 < scale < 1 and (scale * 32).is_integer()):
            raise ValueError(f"scales: expected multiples of 1/32 between 0 and 1, found {scale:g}")
        named[f"scale {scale:g}"] = Transform(int(scale * 32), 0, "area")
    for turn in turns:
        if turn not in (90, 180, 270):
            raise ValueError(f"turns: expected 90, 180 or 270 degrees, found {turn}")
        named[f"turn {turn}"] = Transform(32, turn // 90, "area")
    return named


@dataclass(frozen=True, eq=False)
class RunningEquivariance:
    """The errors of one transform over images. Parts merge exactly."""

    positions: int
    """Positions of the transformed latents, of all images together."""
    squared_error: Float64[Tensor, " channels"]
    """Sum of (E(tau(x)) - tau(E(x)))^2 over them."""
    decoded: tuple[DecodedError, ...]
    """Of each image: the original is tau(x), the undisturbed picture D(E(tau(x))), the disturbed one D(tau(E(x)))."""

    @classmethod
    def of(
        cls,
        model: LatentModel,
        images: Float[Tensor, "batch 3 height width"],
        latents: Float[Tensor, "batch channels latent_height latent_width"],
        transform: Transform,
    ) -> "RunningEquivariance":
        """Of one batch.

        Args:
            images: in [-1, 1].
            latents: E(images), the posterior's mean.
        """
        transformed = transform.images(images, model.factor)
        of_transformed = model.encode(transformed).mean
        transformed_latents = transform.latents(latents)
        errors = of_transformed.cpu().double() - transformed_latents.cpu().double()
        pictures = (transformed, model.decode(of_transformed), model.decode(transformed_latents))
        triples = zip(*(to_uint8(picture.float()) for picture in pictures), strict=True)
        return cls(
            errors.shape[0] * errors.shape[2] * errors.shape[3],
            errors.square().sum(dim=(0, 2, 3)),
            tuple(DecodedError.of(*triple) for triple in triples),
        )

    def merge(self, other: "RunningEquivariance") -> "RunningEquivariance":
        """Of both parts together."""
        return RunningEquivariance(
            self.positions + other.positions, self.squared_error + other.squared_error, self.decoded + other.decoded
        )

    def latent_error(self, variance: Float64[Tensor, " channels"]) -> float:
        """Root mean square of E(tau(x)) - tau(E(x)) in units of the latents' spread: it compares VAEs of any scale.

        Args:
            variance: of each channel over images and positions.
        """
        return relative_change(self.squared_error / self.positions, variance)

    def channel_errors(self, variance: Float64[Tensor, " channels"]) -> Float64[Tensor, " channels"]:
        """The same for each channel in units of its own deviation. NaN for 0/0."""
        return torch.sqrt(self.squared_error / self.positions / variance)
