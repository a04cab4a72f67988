"""Where the network's weights come from: random, any VAE, or a VAE with another number of latent channels."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from latentcodec.vae.loading import load_vae
from latentcodec.vae.presets import build_vae
from train.config import ModelConfig
from train.run_config import ConfigError
from train.state import CheckpointError, newest_checkpoint, read_record


def load_run(run: Path) -> AutoencoderKL:
    """The averaged (EMA) network of the newest whole checkpoint of a training run. Raises CheckpointError without one."""
    import safetensors.torch

    checkpoint = newest_checkpoint(run / "checkpoints")
    if checkpoint is None:
        raise CheckpointError(
            f"{run}: no whole checkpoint under {run / 'checkpoints'}. Train first, or name another folder"
        )
    vae = AutoencoderKL.from_config(read_record(checkpoint)["vae_config"])
    vae.load_state_dict(safetensors.torch.load_file(checkpoint / "ema.safetensors"))
    return vae.eval()


def is_run(source: str) -> bool:
    """Whether `source` is the folder of a training run."""
    return (Path(source) / "checkpoints").is_dir()


def keeps_scaling(config: ModelConfig) -> bool:
    """Whether the scaling factor of the start stays right: its latents do, and it is that of an export, which measured it."""
    if config.train == "all" or config.init_from is None:
        return False
    if not is_run(config.init_from):
        return True
    checkpoint = newest_checkpoint(Path(config.init_from) / "checkpoints")
    return checkpoint is not None and read_record(checkpoint)["keeps_scaling"]


def keep_what_fits(source: AutoencoderKL, target: AutoencoderKL) -> tuple[list[str], list[str]]:
    """Copy every tensor of `source` whose name and shape exist in `target`; returns (kept names, fresh names)."""
    have, want = source.state_dict(), target.state_dict()
    kept = [name for name, tensor in want.items() if name in have and have[name].shape == tensor.shape]
    target.load_state_dict(want | {name: have[name] for name in kept})
    return kept, [name for name in want if name not in set(kept)]


@torch.no_grad()
def shift_logvar(vae: AutoencoderKL, shift: float) -> None:
    """Add `shift` to every log-variance that the encoder gives, through the bias of its last convolution."""
    last = vae.encoder.conv_out if vae.quant_conv is None else vae.quant_conv
    last.bias[vae.config.latent_channels :] += shift


def initial_vae(config: ModelConfig) -> tuple[AutoencoderKL, list[str]]:
    """The network before its first step, and notes for the screen. Random weights come from torch's global generator."""
    if config.init_from is None:
        overrides = {} if config.latent_channels is None else {"latent_channels": config.latent_channels}
        if config.train == "decoder":
            raise ConfigError("model.train: `decoder` needs the VAE whose encoder stays; give model.init_from")
        vae = build_vae(config.preset, **overrides)
        shift_logvar(vae, config.initial_logvar)
        return vae, [f"{config.preset}, random weights"]
    source = load_run(Path(config.init_from)) if is_run(config.init_from) else load_vae(config.init_from)
    channels = config.latent_channels
    if channels is None or channels == source.config.latent_channels:
        return source, [f"weights of {config.init_from}"]
    if config.train == "decoder":
        raise ConfigError(
            "model.latent_channels: decoder-only training keeps the latents; train `all`, or leave this out"
        )
    # The old scaling belongs to the old latents; export measures the new one.
    target = AutoencoderKL.from_config({**source.config, "latent_channels": channels})
    kept, fresh = keep_what_fits(source, target)
    shift_logvar(target, config.initial_logvar)  # the layer that gives it is fresh
    change = f"{source.config.latent_channels} -> {channels} latent channels"
    note = f"warm start from {config.init_from}, {change}: {len(kept)} tensors kept"
    return target, [note, f"fresh tensors: {', '.join(fresh)}"]
