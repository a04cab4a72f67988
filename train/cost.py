"""What a training config costs, before a GPU is rented: parameters, multiply-accumulates, memory at its batch."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from eval.perceptual import untrained_lpips
from train.config import TrainConfig
from train.discriminators import DISCRIMINATORS
from train.schedule import StepPlan
from train.step import DiscriminatorSide, GeneratorSide
from train.warm_start import initial_vae

_GIB = 2**30


@dataclass(frozen=True)
class TrainingCost:
    """Counted, not measured: shapes and dtypes of the real step, run without arithmetic."""

    vae_parameters: int
    encoder_parameters: int
    discriminator_parameters: int
    gmac_per_image: float
    """1e9 multiply-accumulates of one image's step: forward and backward of every network, discriminator included."""
    weights_gib: float
    """Weights, gradients, Adam's moments and EMA in fp32, and the frozen LPIPS backbone."""
    activations_gib: float
    """What autograd keeps for the backward pass of one micro-batch on one process."""
    microbatch: int

    def describe(self) -> str:
        """Three lines for the screen."""
        discriminator = (
            f", discriminator {self.discriminator_parameters / 1e6:.2f} M" if self.discriminator_parameters else ""
        )
        return (
            f"parameters: VAE {self.vae_parameters / 1e6:.2f} M (encoder {self.encoder_parameters / 1e6:.2f} M){discriminator}\n"
            f"work: {self.gmac_per_image:.1f} GMAC an image and step, forward and backward\n"
            f"memory: {self.weights_gib:.2f} GiB of weights and optimiser, {self.activations_gib:.2f} GiB of activations "
            f"for {self.microbatch} images at a time"
        )


class _SavedBytes:
    """Counts the distinct storages that autograd keeps."""

    def __init__(self) -> None:
        self.total = 0
        self._seen: set[int] = set()
        self._kept: list[torch.Tensor] = []

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in self._seen and not isinstance(tensor, nn.Parameter):
            self._seen.add(key)
            self._kept.append(tensor)  # keeps the storage alive, so that its address is not used twice
            self.total += tensor.untyped_storage().nbytes()
        return tensor


def _shape(config: TrainConfig) -> dict[str, Any]:
    """The architecture: of the preset, or of what is fine-tuned."""
    if config.model.init_from is None:
        with FakeTensorMode():
            return dict(initial_vae(config.model)[0].config)
    return dict(initial_vae(config.model)[0].config)


def training_cost(config: TrainConfig, processes: int = 1) -> TrainingCost:
    """The cost of one step of `config`, with every part switched on. Nothing is computed, and of weights only those are read
    that a run would start from."""
    micro, crop, adversarial = config.microbatch(processes), config.data.crop, config.adversarial
    shape = _shape(config)
    with FakeTensorMode():
        vae = AutoencoderKL.from_config(shape).train()
        if config.model.train == "decoder":
            vae.encoder.requires_grad_(False)
        if config.gradient_checkpointing:
            vae.enable_gradient_checkpointing()
        network = DISCRIMINATORS[adversarial.discriminator](adversarial.width) if adversarial.enabled else None
        perceptual = untrained_lpips(config.loss.lpips_net) if "lpips" in config.loss.weights else None
        side = GeneratorSide(
            vae,
            config.loss,
            adversarial,
            perceptual=perceptual,
            discriminator=network,
            precision=config.mixed_precision,
        )
        plan = StepPlan(
            config.steps, 0.0, 0.0, adversarial.weight if adversarial.enabled else 0.0, adversarial.enabled, 0.0, None
        )
        images, noise = (
            torch.zeros(micro, 3, crop, crop),
            torch.zeros(micro, vae.config.latent_channels, crop // 8, crop // 8),
        )
        saved = _SavedBytes()
        with FlopCounterMode(display=False) as flops:
            with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
                output = side(images, noise, plan)
            output.loss.backward()
            if network is not None:
                loss, _ = DiscriminatorSide(network, adversarial, precision=config.mixed_precision)(
                    output.targets, output.reconstructions, plan
                )
                loss.backward()
    trainable = sum(p.numel() for p in vae.parameters() if p.requires_grad)
    encoder = [vae.encoder] if vae.quant_conv is None else [vae.encoder, vae.quant_conv]
    total = sum(p.numel() for p in vae.parameters())
    critic = sum(p.numel() for p in network.parameters()) if network is not None else 0
    backbone = sum(p.numel() for p in perceptual.parameters()) if perceptual is not None else 0
    return TrainingCost(
        vae_parameters=total,
        encoder_parameters=sum(p.numel() for module in encoder for p in module.parameters()),
        discriminator_parameters=critic,
        gmac_per_image=flops.get_total_flops() / 2e9 / micro,
        # weight, gradient and two moments of what learns; the average of the VAE; the rest once
        weights_gib=4 * (4 * (trainable + critic) + (total - trainable) + total + backbone) / _GIB,
        activations_gib=saved.total / _GIB,
        microbatch=micro,
    )
