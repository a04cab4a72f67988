"""How any run of this project begins: Accelerate, the optimiser, and the checkpoint that it goes on from."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration
from torch import nn

from train.run_config import ConfigError, OptimizerConfig, RunConfig
from train.state import newest_checkpoint, read_record


def make_accelerator(config: RunConfig) -> Accelerator:
    """Accelerate for `config`. Precision is ours (autocast inside the sides), so Accelerate's own is off."""
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


def optimizer_for(config: OptimizerConfig, module: nn.Module) -> torch.optim.AdamW:
    """AdamW of what is trained in `module`. Its learning rate is set before each step (`set_lr`)."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)


def set_lr(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next update."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def checkpoint_of(config: RunConfig) -> Path | None:
    """The newest whole checkpoint of `config.out`; None for a new run.

    Raises ConfigError when it belongs to another config: before anything is overwritten.
    """
    checkpoint = newest_checkpoint(Path(config.out) / "checkpoints")
    if checkpoint is None:
        return None
    changed = config.changed_since(read_record(checkpoint)["config"])
    if changed:
        listed = "; ".join(f"{key} was {before!r}, now {after!r}" for key, (before, after) in changed.items())
        raise ConfigError(
            f"out: {checkpoint} belongs to another config: {listed}. "
            "Restore these settings to resume, or give another --out to start anew"
        )
    return checkpoint
