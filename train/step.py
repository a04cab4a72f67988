"""One training step: the generator's side, then the discriminator's side on the same reconstructions.

Everything differentiable of a side runs inside one `forward`, so that DDP's hooks see it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn

from train.adversarial import GAN_LOSSES, LeCam, adaptive_weight, r1_penalty
from train.config import AdversarialConfig, LossConfig
from train.losses import TERMS, Reconstruction, kl_nats_per_image, latent_equivariance
from train.schedule import StepPlan

Scalars = dict[str, Tensor]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Gradients flow through `module` but not into its parameters."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast on `device`, or none."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@dataclass
class GeneratorOutput:
    """What a forward pass of the generator's side leaves."""

    loss: Float[Tensor, ""]
    targets: Float[Tensor, "batch 3 height width"]
    """The images, transformed where transformed latents were decoded."""
    reconstructions: Float[Tensor, "batch 3 height width"]
    scalars: Scalars
    """Detached: each unweighted term, `equivariance`, `gan_weight`, `kl_nats_per_image`, and the signals of `latent_signals`."""


@torch.no_grad()
def latent_signals(
    mean: Float[Tensor, "batch channels height width"], logvar: Float[Tensor, "batch channels height width"]
) -> Scalars:
    """Health of the posterior over one batch.

    A channel is active when the variance of its posterior mean over the data is above 0.01 (Burda et al. 2016).
    """
    return {
        "latent_mean": mean.mean(),
        "latent_std": mean.std(),
        "posterior_std": torch.exp(0.5 * logvar).mean(),
        "active_channels": (mean.var(dim=(0, 2, 3)) > 0.01).float().sum(),
    }


class GeneratorSide(nn.Module):
    """Encode, sample, decode and every loss of the VAE. Its parameters are those of the VAE alone."""

    def __init__(
        self,
        vae: AutoencoderKL,
        loss: LossConfig,
        adversarial: AdversarialConfig,
        *,
        perceptual: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        precision: str = "no",
    ) -> None:
        super().__init__()
        self.vae = vae
        self.loss, self.adversarial, self.precision = loss, adversarial, precision
        # In a tuple, hence no sub-modules: frozen here, and neither in this side's parameters nor in its state.
        self._others = (perceptual, discriminator)

    def posterior(self, images: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance in fp32. Without gradient where the encoder is frozen (decoder-only training)."""
        trainable = any(parameter.requires_grad for parameter in self.vae.encoder.parameters())
        with torch.set_grad_enabled(trainable and torch.is_grad_enabled()), autocast(images.device, self.precision):
            posterior = self.vae.encode(images).latent_dist
        return posterior.mean.float(), posterior.logvar.float()

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        noise: Float[Tensor, "batch channels latent_height latent_width"],
        plan: StepPlan,
    ) -> GeneratorOutput:
        mean, logvar = self.posterior(images)
        latents = mean + torch.exp(0.5 * logvar) * noise
        targets, decoded, latent_error = images, latents, None
        if plan.transform is not None:
            transformed = plan.transform.images(images)
            if plan.latent_weight > 0:
                latent_error = latent_equivariance(self.posterior(transformed)[0], plan.transform.latents(mean))
            if plan.transform_decoded:
                targets, decoded = transformed, plan.transform.latents(latents)
        with autocast(images.device, self.precision):
            reconstructions = self.vae.decode(decoded).sample
        reconstructions = reconstructions.float()

        pair = Reconstruction(targets, reconstructions, mean, logvar, self._others[0])
        loss, scalars = self._reconstruction_loss(pair, latent_error, plan.latent_weight)
        if plan.gan_weight > 0:
            adversarial_loss, weight = self._adversarial_loss(reconstructions, loss, plan)
            loss = loss + weight * adversarial_loss
            scalars |= {"gan": adversarial_loss.detach(), "gan_weight": weight.detach()}
        return GeneratorOutput(loss, targets, reconstructions, scalars | latent_signals(mean, logvar))

    def _reconstruction_loss(
        self, pair: Reconstruction, latent_error: Tensor | None, latent_weight: float
    ) -> tuple[Tensor, Scalars]:
        weights = dict(self.loss.weights)
        terms = {name: TERMS[name](pair) for name in weights}
        if latent_error is not None:
            weights["equivariance"], terms["equivariance"] = latent_weight, latent_error
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        if self.loss.reduction == "ldm_sum":
            loss = loss * pair.images[0].numel()
        with torch.no_grad():
            nats = kl_nats_per_image(pair.mean, pair.logvar).mean()
        return loss, {name: value.detach() for name, value in terms.items()} | {"kl_nats_per_image": nats}

    def _adversarial_loss(self, reconstructions: Tensor, loss: Tensor, plan: StepPlan) -> tuple[Tensor, Tensor]:
        discriminator = self._others[1]
        assert discriminator is not None, "a plan with a GAN weight needs a discriminator"
        with frozen(discriminator), autocast(reconstructions.device, self.precision):
            logits = discriminator(reconstructions)
        adversarial_loss = GAN_LOSSES[self.adversarial.loss].generator_loss(logits.float())
        weight = torch.tensor(plan.gan_weight, device=loss.device)
        if self.adversarial.rule == "adaptive":
            weight = weight * adaptive_weight(loss, adversarial_loss, self.vae.decoder.conv_out.weight)
        return adversarial_loss, weight


class DiscriminatorSide(nn.Module):
    """The discriminator's loss on real images and detached reconstructions."""

    def __init__(self, discriminator: nn.Module, adversarial: AdversarialConfig, *, precision: str = "no") -> None:
        super().__init__()
        self.discriminator = discriminator
        self.adversarial, self.precision = adversarial, precision
        self.lecam = LeCam()

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        reconstructions: Float[Tensor, "batch 3 height width"],
        plan: StepPlan,
    ) -> tuple[Float[Tensor, ""], Scalars]:
        images, reconstructions = images.detach(), reconstructions.detach()
        penalised = plan.r1_weight > 0
        with autocast(images.device, self.precision):
            real = self.discriminator(images.requires_grad_(penalised)).float()
            fake = self.discriminator(reconstructions).float()
        loss = GAN_LOSSES[self.adversarial.loss].discriminator_loss(real, fake)
        scalars: Scalars = {
            "discriminator": loss.detach(),
            "accuracy_real": (real > 0).float().mean(),
            "accuracy_fake": (fake < 0).float().mean(),
        }
        if penalised:
            penalty = r1_penalty(images, real)
            loss = loss + plan.r1_weight * penalty
            scalars["r1"] = penalty.detach()
        if self.adversarial.lecam > 0:
            self.lecam.update(real, fake)
            penalty = self.lecam.penalty(real, fake)
            loss = loss + self.adversarial.lecam * penalty
            scalars["lecam"] = penalty.detach()
        return loss, scalars
