"""What the posterior tells about an image: KL divergence, active channels, its deviation against the latents' spread."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from eval.latents.models import Posterior
from latentcodec.vae.divergence import kl_nats

ACTIVE_VARIANCE = 0.01
"""Threshold of Burda, Grosse & Salakhutdinov ("Importance weighted autoencoders", arXiv 1509.00519, section 5)."""


@dataclass(frozen=True, eq=False)
class RunningPosteriors:
    """Sums over images, for each channel. Parts merge exactly."""

    images: int
    positions: int
    """Values in each channel, of all images together."""
    nats: Float64[Tensor, " channels"]
    """Sum of the KL divergence from the unit normal distribution."""
    variances: Float64[Tensor, " channels"]
    """Sum of the posterior's variance."""

    @classmethod
    def of(cls, posterior: Posterior) -> "RunningPosteriors":
        """Of one batch."""
        mean, logvar = (values.detach().cpu().double() for values in (posterior.mean, posterior.logvar))
        batch, _, height, width = mean.shape
        sums = (values.sum(dim=(0, 2, 3)) for values in (kl_nats(mean, logvar), logvar.exp()))
        return cls(batch, batch * height * width, *sums)

    def merge(self, other: "RunningPosteriors") -> "RunningPosteriors":
        """Of both parts together."""
        return RunningPosteriors(
            self.images + other.images,
            self.positions + other.positions,
            self.nats + other.nats,
            self.variances + other.variances,
        )

    def kl_nats_per_image(self) -> Float64[Tensor, " channels"]:
        """KL(q(z|x) || N(0, 1)) of each channel in nats, summed over its positions, mean over images. It grows with the
        size of the images; the sum over channels is LDM's `kl_loss`."""
        return self.nats / self.images

    def variance(self) -> Float64[Tensor, " channels"]:
        """Mean variance of the posterior in each channel."""
        return self.variances / self.positions


def active(variance_of_means: Float64[Tensor, " channels"]) -> Bool[Tensor, " channels"]:
    """Which channels tell something about the image: the variance of the posterior's mean over images and positions is
    above `ACTIVE_VARIANCE`, in raw units, where the prior's is 1."""
    return variance_of_means > ACTIVE_VARIANCE


def posterior_share(
    posterior_variance: Float64[Tensor, " channels"], variance_of_means: Float64[Tensor, " channels"]
) -> float:
    """Deviation of the posterior over the spread of its means, all channels together: 1e-3 to 1e-5 for Stable
    Diffusion's VAEs, and above 1 where latents are mostly noise. Infinite for means that never change."""
    return torch.sqrt(posterior_variance.sum() / variance_of_means.sum()).item()
