"""The loss of a diffusion model, and what it leaves unexplained at each level of noise.

Noisy latents are x_t = a_t x + s_t e with a_t^2 + s_t^2 = 1, and the network tells the velocity v = a_t e - s_t x, so
that its estimate of x is a_t x_t - s_t v (Salimans & Ho 2022, arXiv 2202.00512).
"""

from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float, Int64
from torch import Tensor, nn

from train.step import Scalars, autocast

Latents = Float[Tensor, "batch channels size size"]


@dataclass
class Draws:
    """What is random in a micro-batch."""

    timesteps: Int64[Tensor, " batch"]
    noise: Latents
    labels: Int64[Tensor, " batch"]
    """With `NO_CLASS` where it is withheld."""


def _signal_and_noise(schedule: DDIMScheduler, timesteps: Int64[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
    """a_t and s_t, to be multiplied with latents."""
    share = schedule.alphas_cumprod.to(timesteps.device)[timesteps][:, None, None, None]
    return share.sqrt(), (1 - share).sqrt()


class DenoisingSide(nn.Module):
    """The network and its loss in one `forward`, so that DDP's hooks see it."""

    def __init__(self, transformer: nn.Module, schedule: DDIMScheduler, precision: str) -> None:
        super().__init__()
        self.transformer = transformer
        self.schedule, self.precision = schedule, precision

    def forward(self, latents: Latents, draws: Draws) -> tuple[Float[Tensor, ""], Scalars]:
        """Mean squared error of the velocity over all values; 1 for a network that says 0, if the latents' variance is 1."""
        signal, noise = _signal_and_noise(self.schedule, draws.timesteps)
        noisy = signal * latents + noise * draws.noise
        velocity = predict_velocity(self.transformer, noisy, draws.timesteps, draws.labels, self.precision)
        loss = (velocity - (signal * draws.noise - noise * latents)).square().mean()
        return loss, {"velocity": loss.detach(), "latent_std": latents.std()}


def predict_velocity(
    transformer: nn.Module, noisy: Latents, timesteps: Tensor, labels: Tensor, precision: str
) -> Latents:
    """The network's answer in fp32."""
    with autocast(noisy.device, precision):
        return transformer(noisy, timestep=timesteps, class_labels=labels).sample.float()


@dataclass(frozen=True)
class Unexplained:
    """Share of the latents' variance that is left in the error of the network's estimate of x, mean over the channels.

    Each channel counts alike, whatever its scale, so that VAEs with other channels can be compared. 1: it knows no more
    than the mean. `pointwise` is what the best linear estimate from each noisy value alone leaves, 1 / (1 + a^2 var / s^2):
    what is below that comes from the other latents, and is 0 to be had where they tell nothing about each other.
    """

    network: float
    pointwise: float

    @property
    def structure(self) -> float:
        """network / pointwise: 1 if nothing was learnt of how latents hang together; smaller is easier to model."""
        return self.network / self.pointwise


@torch.no_grad()
def unexplained_errors(
    transformer: nn.Module,
    schedule: DDIMScheduler,
    latents: Latents,
    draws: Draws,
    precision: str,
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, " batch"]]:
    """Squared error of the estimate of x, and of the velocity: means over each image's places, and over its values."""
    signal, noise = _signal_and_noise(schedule, draws.timesteps)
    noisy = signal * latents + noise * draws.noise
    velocity = predict_velocity(transformer, noisy, draws.timesteps, draws.labels, precision)
    estimate = signal * noisy - noise * velocity
    loss = (velocity - (signal * draws.noise - noise * latents)).square().flatten(1).mean(1)
    return (estimate - latents).square().mean(dim=(2, 3)), loss


def pointwise_error(schedule: DDIMScheduler, timestep: int, variance: Float[Tensor, " channels"]) -> float:
    """`Unexplained.pointwise` at one level of noise."""
    share = float(schedule.alphas_cumprod[timestep])
    return float((1 / (1 + share / max(1 - share, 1e-12) * variance)).mean())
