"""The adversarial terms: GAN losses, R1, LeCAM, LDM's adaptive weight, and a ramp.

Logits are (batch, 1, rows, columns), one for each patch or pixel; every mean runs over all of them. Losses are computed
in fp32: float the logits of a discriminator under autocast (train/discriminators.py does).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Logits = Float[Tensor, "..."]


def hinge_generator_loss(fake_logits: Logits) -> Float[Tensor, ""]:
    """-E[D(fake)] (Lim & Ye 2017, arXiv 1705.02894)."""
    return -fake_logits.float().mean()


def hinge_discriminator_loss(real_logits: Logits, fake_logits: Logits) -> Float[Tensor, ""]:
    """(E[relu(1 - D(real))] + E[relu(1 + D(fake))]) / 2; the half is LDM's."""
    return 0.5 * (F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean())


def non_saturating_generator_loss(fake_logits: Logits) -> Float[Tensor, ""]:
    """E[-log sigmoid(D(fake))] in nats (Goodfellow et al. 2014)."""
    return F.softplus(-fake_logits.float()).mean()


def non_saturating_discriminator_loss(real_logits: Logits, fake_logits: Logits) -> Float[Tensor, ""]:
    """(E[-log sigmoid(D(real))] + E[-log(1 - sigmoid(D(fake)))]) / 2 in nats; the half is LDM's."""
    return 0.5 * (F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean())


class GanLoss(NamedTuple):
    """The two sides of a GAN's game."""

    generator_loss: Callable[[Tensor], Tensor]
    """(fake logits) -> scalar."""
    discriminator_loss: Callable[[Tensor, Tensor], Tensor]
    """(real logits, fake logits) -> scalar."""


GAN_LOSSES: dict[str, GanLoss] = {
    "hinge": GanLoss(hinge_generator_loss, hinge_discriminator_loss),
    "non_saturating": GanLoss(non_saturating_generator_loss, non_saturating_discriminator_loss),
}


def r1_penalty(images: Float[Tensor, "batch 3 height width"], logits: Float[Tensor, "batch ..."]) -> Float[Tensor, ""]:
    """Mean over the batch of ||grad_x D(x)||^2 on real images (Mescheder et al. 2018, arXiv 1801.04406).

    D(x) is the mean of an image's logits, as in the GAN losses, so that one weight suits any number of patches; with
    one logit an image it is the paper's. The norm runs over all 3*H*W values; gamma/2 is the caller's. The graph of the
    gradient is kept, so that the penalty can be differentiated.

    Args:
        images: real images that required grad when `logits` were computed from them.
    """
    per_image = logits.float().reshape(len(images), -1).mean(1)
    (gradient,) = torch.autograd.grad(per_image.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean()


class LeCam(nn.Module):
    """LeCAM regularisation (Tseng et al. 2021, arXiv 2104.03310): ties logits to moving averages of the other side's.

        penalty = E[relu(D(real) - a_fake)^2] + E[relu(a_real - D(fake))^2]

    with the one-sided form of the authors' code. The averages a are free of the bias of their start at 0, and are
    buffers: they go with the state dict, hence into checkpoints.
    """

    real: Float[Tensor, ""]
    fake: Float[Tensor, ""]
    weight: Float[Tensor, ""]

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a number in [0, 1), found {decay}")
        self.decay = decay
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))
        # The average of 1 over the same updates: dividing by it takes the start at 0 out.
        self.register_buffer("weight", torch.zeros(()))

    @torch.no_grad()
    def update(self, real_logits: Logits, fake_logits: Logits) -> None:
        """Take in the batch's mean logits, averaged over all ranks; every rank must call this with equal batches."""
        means = average_across_ranks(torch.stack([real_logits.float().mean(), fake_logits.float().mean()]))
        self.real.lerp_(means[0], 1 - self.decay)
        self.fake.lerp_(means[1], 1 - self.decay)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.decay)

    def anchors(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Average logit of real and of fake images; both 0 before the first update."""
        weight = self.weight.clamp_min(1 - self.decay)
        return self.real / weight, self.fake / weight

    def penalty(self, real_logits: Logits, fake_logits: Logits) -> Float[Tensor, ""]:
        """The term above, in squared logits; differentiable in the logits."""
        anchor_real, anchor_fake = self.anchors()
        above = F.relu(real_logits.float() - anchor_fake).square().mean()
        below = F.relu(anchor_real - fake_logits.float()).square().mean()
        return above + below


def average_across_ranks(value: Tensor) -> Tensor:
    """Mean of `value` over the processes of torch.distributed, without gradient; `value` where there is only one."""
    value = value.detach()
    if not (dist.is_available() and dist.is_initialized()):
        return value
    total = value.clone()
    dist.all_reduce(total)  # a sum: gloo has no mean
    return total / dist.get_world_size()


def adaptive_weight(
    reconstruction_loss: Float[Tensor, ""],
    gan_loss: Float[Tensor, ""],
    last_layer: Float[Tensor, "..."],
    ceiling: float = 1e4,
) -> Float[Tensor, ""]:
    """Weight that makes both losses pull equally hard at the decoder's last layer (VQGAN, arXiv 2012.09841, eq. 7).

        clamp(||d reconstruction_loss / d last_layer|| / (||d gan_loss / d last_layer|| + 1e-4), 0, ceiling)

    The gradients are averaged across ranks before their norms are taken, so that every rank gets the weight of one
    process with the joint batch. Detached; both graphs are kept. The weight is in the unit of `reconstruction_loss`: to
    hold LDM's ceiling with losses that are means, give ceiling / (3*H*W).
    """
    losses = (reconstruction_loss, gan_loss)
    gradients = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0] for loss in losses]
    reconstruction, gan = average_across_ranks(torch.stack(gradients).float()).flatten(1).norm(dim=1)
    return (reconstruction / (gan + 1e-4)).clamp(0, ceiling)


def ramp(step: int, start: int, length: int) -> float:
    """0 up to `start`, 1 from `start + length` on, a straight line between; a `length` of 0 is a jump at `start`."""
    if length < 0:
        raise ValueError(f"length: expected 0 or more steps, found {length}")
    if length == 0:
        return float(step >= start)
    return min(1.0, max(0.0, (step - start) / length))
