"""Pictures decoded from latents that something was done to, against those that were left alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from eval.metrics import mean_metric, psnr
from eval.reconstruct.modes import image_seed


@dataclass(frozen=True)
class DecodedError:
    """What a disturbance of the latents does to one decoded picture."""

    psnr: float
    """Of the picture decoded from disturbed latents against the original, in dB; infinite where they are equal."""
    undisturbed_psnr: float
    """The same without the disturbance: what the VAE can do with this image."""
    change: float
    """Root mean square difference between the two decoded pictures, in 8-bit levels: 0 to 255."""

    @classmethod
    def of(
        cls,
        original: UInt8[np.ndarray, "height width 3"],
        undisturbed: UInt8[np.ndarray, "height width 3"],
        disturbed: UInt8[np.ndarray, "height width 3"],
    ) -> "DecodedError":
        """Of one image, on uint8 pixels."""
        difference = undisturbed.astype(np.float64) - disturbed
        return cls(psnr(original, disturbed), psnr(original, undisturbed), float(np.sqrt(np.mean(difference**2))))

    @property
    def loss(self) -> float:
        """PSNR that the disturbance costs, in dB: how far the VAE falls below its own reconstruction. This compares
        VAEs of different quality."""
        if self.psnr == self.undisturbed_psnr:
            return 0.0  # also where both are infinite
        return self.undisturbed_psnr - self.psnr


def mean_errors(errors: Sequence[DecodedError]) -> dict[str, float]:
    """Means over images of `psnr`, `undisturbed_psnr`, `loss` and `change`; the same in any order.

    Raises:
        ValueError: no images.
    """
    names = ("psnr", "undisturbed_psnr", "loss", "change")
    return {name: mean_metric([getattr(error, name) for error in errors]) for name in names}


def unit_noise(
    images: Sequence[str], shape: Sequence[int], seed: int = 0
) -> Float[Tensor, "batch channels height width"]:
    """Normal noise of variance 1 for each image, from its id: whatever the order, batch or device.

    Args:
        images: an id for each.
        shape: channels, height and width of the latents of one.
    """
    generators = [torch.Generator().manual_seed(image_seed(seed, image)) for image in images]
    return torch.stack([torch.randn(*shape, generator=generator) for generator in generators])


def with_noise(
    latents: Float[Tensor, "batch channels height width"],
    noise: Float[Tensor, "batch channels height width"],
    std: Float[Tensor, " channels"],
    size: float,
) -> Float[Tensor, "batch channels height width"]:
    """Latents with noise of `size` times each channel's deviation `std`."""
    scale = (size * std).to(latents)
    return latents + scale[:, None, None] * noise.to(latents)


def relative_change(squared_error: Float[Tensor, " channels"], variance: Float[Tensor, " channels"]) -> float:
    """Root of the summed squared error over the summed variance: an error of latents in units of their spread, all
    channels together. 0 for no error, about 1.4 for latents of other images; infinite if the latents never change."""
    error, spread = squared_error.sum().item(), variance.sum().item()
    if error == 0:
        return 0.0
    return math.sqrt(error / spread) if spread > 0 else math.inf
