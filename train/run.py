"""Everything a run is made of, built from its config on every process."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration, set_seed
from diffusers import AutoencoderKL
from torch import nn

from eval.perceptual import load_lpips
from train.config import ConfigError, OptimizerConfig, TrainConfig, changed_keys
from train.discriminators import DISCRIMINATORS
from train.ema import Ema
from train.state import TrainState, load_checkpoint, newest_checkpoint, read_record
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


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Accelerate for `config`. Precision is ours (autocast inside the two sides), so Accelerate's own is off."""
    accelerator = Accelerator(
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.accumulate, sync_with_dataloader=False
        ),
        log_with=config.tracker,
        project_config=ProjectConfiguration(project_dir=config.out),
    )
    config.microbatch(accelerator.num_processes)
    return accelerator


def _optimizer(config: OptimizerConfig, module: nn.Module, lr: float) -> torch.optim.AdamW:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=lr, betas=config.betas, weight_decay=config.weight_decay)


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
    folder = Path(config.out)
    checkpoint = newest_checkpoint(folder / "checkpoints")
    if checkpoint is not None:
        _refuse_another_config(config, checkpoint)
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
        perceptual = load_lpips(config.loss.lpips_net, config.loss.lpips_backbone).to(accelerator.device)
    generator = GeneratorSide(
        vae, config.loss, config.adversarial,
        perceptual=perceptual, discriminator=network, precision=config.mixed_precision,
    )  # fmt: skip
    generator.to(accelerator.device)
    # Averaged from the weights on the device, before DDP wraps them.
    ema = Ema(vae, config.ema_decay)
    if config.compile:
        _compile(vae.encoder, vae.decoder, network)
    optimizer = _optimizer(config.optimizer, generator, config.optimizer.lr)
    side, side_optimizer = None, None
    if network is not None:
        side = DiscriminatorSide(network, config.adversarial, precision=config.mixed_precision).to(accelerator.device)
        side_optimizer = _optimizer(config.optimizer, side, config.optimizer.discriminator_lr or config.optimizer.lr)
    state = TrainState(vae, ema.model, optimizer, side, side_optimizer)
    if checkpoint is not None:
        load_checkpoint(state, checkpoint)
        notes = [f"resumed from {checkpoint.name}"]
    for note in notes:
        accelerator.print(note)
    prepared = accelerator.prepare(generator, optimizer, *([side, side_optimizer] if side is not None else []))
    discriminator, discriminator_optimizer = prepared[2:] if side is not None else (None, None)
    return Run(config, accelerator, state, ema, vae, prepared[0], prepared[1], discriminator, discriminator_optimizer)


def _refuse_another_config(config: TrainConfig, checkpoint: Path) -> None:
    changed = changed_keys(read_record(checkpoint)["config"], json.loads(json.dumps(config.as_dict())))
    if changed:
        listed = "; ".join(f"{key} was {before!r}, now {after!r}" for key, (before, after) in changed.items())
        raise ConfigError(
            f"out: {checkpoint} belongs to another config: {listed}. "
            "Restore these settings to resume, or give another --out to start anew"
        )
