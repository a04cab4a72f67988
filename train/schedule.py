"""Quantities that are pure functions of the step, so that nothing of them has to be saved or restored."""

import math
from dataclasses import dataclass

import numpy as np

from latentcodec.vae.equivariance import Transform
from train.adversarial import ramp
from train.config import AdversarialConfig, EquivarianceConfig, TrainConfig
from train.run_config import OptimizerConfig


def learning_rate(config: OptimizerConfig, peak: float, step: int, steps: int) -> float:
    """Learning rate of update number `step` (from 0) of `steps`: linear warm-up, then constant or half a cosine."""
    if step < config.warmup:
        return peak * (step + 1) / config.warmup
    if config.schedule == "constant":
        return peak
    progress = (step - config.warmup) / max(1, steps - 1 - config.warmup)
    low = config.final_lr
    return peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@dataclass(frozen=True)
class StepPlan:
    """What update number `step` does; the same on every process and in every micro-batch."""

    step: int
    vae_lr: float
    discriminator_lr: float
    gan_weight: float
    """Weight of the adversarial term for the generator, ramp included; 0 means that it is not computed."""
    train_discriminator: bool
    r1_weight: float
    transform: Transform | None
    """Equivariance transform of this step, or None."""
    transform_decoded: bool = True
    """Whether the transformed latents are decoded, and not the plain ones."""
    latent_weight: float = 0.0
    """Weight of the error that the transform leaves in the latents."""


def gan_weight(config: AdversarialConfig, step: int) -> float:
    """Weight of the adversarial term: 0 until the discriminator's head start is over, then ramped to `config.weight`."""
    if not config.enabled:
        return 0.0
    return config.weight * ramp(step, config.start + config.head_start, config.ramp)


def draw_transform(rng: np.random.Generator, min_scale: float, turns: bool = True) -> Transform:
    """A scale drawn evenly in 32nds from [min_scale, 1) and a turn by 0, 90, 180 or 270 degrees, as EQ-VAE trains; without
    `turns`, only the scale.

    Where the step decodes tau(z), it compares with tau(x), so every loss term acts on the transformed pair.
    """
    low = max(1, round(min_scale * 32))
    scale, quarters = int(rng.integers(low, 32)), int(rng.integers(0, 4))
    return Transform(scale, quarters if turns else 0)


def _transform(config: EquivarianceConfig, seed: int, step: int) -> Transform | None:
    if config.probability == 0 or step < config.start:
        return None
    rng = np.random.Generator(np.random.Philox(key=[seed, step], counter=[0, 0, 0, 1]))
    return draw_transform(rng, config.min_scale, config.turns) if rng.random() < config.probability else None


def plan_step(config: TrainConfig, step: int) -> StepPlan:
    """The plan of update number `step` (from 0)."""
    optimizer, adversarial = config.optimizer, config.adversarial
    discriminator_peak = optimizer.lr if optimizer.discriminator_lr is None else optimizer.discriminator_lr
    training = adversarial.enabled and step >= adversarial.start
    lazy_r1 = training and adversarial.r1 > 0 and step % adversarial.r1_every == 0
    return StepPlan(
        step=step,
        vae_lr=learning_rate(optimizer, optimizer.lr, step, config.steps),
        discriminator_lr=learning_rate(optimizer, discriminator_peak, max(0, step - adversarial.start), config.steps),
        gan_weight=gan_weight(adversarial, step),
        train_discriminator=training,
        r1_weight=adversarial.r1 * adversarial.r1_every if lazy_r1 else 0.0,
        transform=_transform(config.equivariance, config.seed, step),
        transform_decoded=config.equivariance.decoded,
        latent_weight=config.equivariance.latent_weight,
    )
