"""Everything a run is made of, built from its config on every process."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL
from torch import nn

from train.config import TrainConfig
from train.discriminators import DISCRIMINATORS
from train.ema import Ema
from train.launch import checkpoint_of, optimizer_for
from train.perceptual import training_lpips
from train.state import TrainState, load_checkpoint
from train.step import DiscriminatorSide, GeneratorSide
from train.warm_start import initial_vae


@dataclass
class Run:
    """The parts of a run. `generator` and `discriminator` are what Accelerate prepared (wrapped in DDP when distributed)."""

    config: TrainConfig
    accelerator: Accelerator
    state: TrainState
    ema: Ema[AutoencoderKL]
    vae: AutoencoderKL
    generator: nn.Module
    generator_optimizer: torch.optim.Optimizer
    discriminator: nn.Module | None
    discriminator_optimizer: torch.optim.Optimizer | None

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.config.out)


def _prepare_vae(config: TrainConfig, vae: AutoencoderKL) -> AutoencoderKL:
    vae.train()
    if config.model.train == "decoder":
        for frozen in (vae.encoder, vae.quant_conv):
            if frozen is not None:
                frozen.requires_grad_(False)
    if config.gradient_checkpointing:
        vae.enable_gradient_checkpointing()
    return vae.to(memory_format=torch.channels_last) if config.channels_last else vae


def _compile(*modules: nn.Module | None) -> None:
    for module in modules:
        if module is not None:
            module.compile()  # in place: names in the state dict stay


def build_run(config: TrainConfig, accelerator: Accelerator) -> Run:
    """Networks, optimisers and average; restored from the newest checkpoint of `config.out` where there is one.

    Raises ConfigError when that checkpoint belongs to another config, before anything is overwritten.
    """
    checkpoint = checkpoint_of(config)
    set_seed(config.seed)
    vae, notes = initial_vae(config.model)
    _prepare_vae(config, vae)
    network = (
        DISCRIMINATORS[config.adversarial.discriminator](config.adversarial.width)
        if config.adversarial.enabled
        else None
    )
    if network is not None and config.channels_last:
        network.to(memory_format=torch.channels_last)
    perceptual = None
    if "lpips" in config.loss.weights:
        perceptual = training_lpips(config.loss, accelerator.device)
    generator = GeneratorSide(
        vae, config.loss, config.adversarial,
        perceptual=perceptual, discriminator=network, precision=config.mixed_precision,
    )  # fmt: skip
    generator.to(accelerator.device)
    # Averaged from the weights on the device, before DDP wraps them.
    ema = Ema(vae, config.ema_decay)
    if config.compile:
        _compile(vae.encoder, vae.decoder, network)
    optimizer = optimizer_for(config.optimizer, generator)
    side, side_optimizer = None, None
    if network is not None:
        side = DiscriminatorSide(network, config.adversarial, precision=config.mixed_precision).to(accelerator.device)
        side_optimizer = optimizer_for(config.optimizer, side)
    state = TrainState({"vae": vae, "ema": ema.model}, {"vae_optimizer": optimizer})
    if side is not None and side_optimizer is not None:
        # Of the side, not of its network alone: LeCAM's averages belong to it.
        state.networks["discriminator"] = side
        state.optimizers["discriminator_optimizer"] = side_optimizer
    if checkpoint is not None:
        load_checkpoint(state, checkpoint)
        notes = [f"resumed from {checkpoint.name}"]
    for note in notes:
        accelerator.print(note)
    prepared = accelerator.prepare(generator, optimizer, *([side, side_optimizer] if side is not None else []))
    discriminator, discriminator_optimizer = prepared[2:] if side is not None else (None, None)
    return Run(config, accelerator, state, ema, vae, prepared[0], prepared[1], discriminator, discriminator_optimizer)
