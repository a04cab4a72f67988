"""The network of a diffusion run, its noise schedule, and the folder that diffusers' `DiTPipeline` reads."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from diffusers.models.embeddings import LabelEmbedding

from train.diffusion.config import TransformerConfig

CLASSES = 1000
"""Of the embedding table. `DiTPipeline` takes 1000 for "no class", so there are always that many, however few are used."""

NO_CLASS = CLASSES


def build_transformer(config: TransformerConfig, channels: int, size: int) -> DiTTransformer2DModel:
    """A DiT with random weights, from torch's global generator, for latents of (channels, size, size)."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.head_channels,
        in_channels=channels,
        out_channels=channels,  # DiTPipeline reads it
        num_layers=config.layers,
        sample_size=size,
        patch_size=config.patch,
        num_embeds_ada_norm=CLASSES,
    )
    _start_as_identity(transformer)
    for module in transformer.modules():
        if isinstance(module, LabelEmbedding):
            module.dropout_prob = 0.0  # classes are withheld by `train/diffusion/data.py`, as a function of the seed
    return transformer


@torch.no_grad()
def _start_as_identity(transformer: DiTTransformer2DModel) -> None:
    """Blocks add nothing and the output is 0 at first ("adaLN-Zero", DiT section 3.2); diffusers leaves that to the trainer."""
    for block in transformer.transformer_blocks:
        torch.nn.init.zeros_(block.norm1.linear.weight)
        torch.nn.init.zeros_(block.norm1.linear.bias)
    for layer in (transformer.proj_out_1, transformer.proj_out_2):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)


def noise_schedule() -> DDIMScheduler:
    """1000 levels that end in pure noise, and the velocity as what is predicted (Salimans & Ho 2022, arXiv 2202.00512).

    A schedule that keeps a trace of the image at its last level makes a model that cannot draw dark or bright pictures
    (Lin et al. 2023, arXiv 2305.08891).
    """
    return DDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def make_pipeline(transformer: DiTTransformer2DModel, vae: AutoencoderKL, classes: int) -> DiTPipeline:
    """Both as one pipeline. It divides latents by `scaling_factor` and knows neither shift nor statistics per channel."""
    names = {number: str(number) for number in range(classes)}
    pipeline = DiTPipeline(transformer=transformer, vae=vae, scheduler=noise_schedule(), id2label=names)
    pipeline.register_to_config(id2label=names)  # so that it is saved
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_pipeline(pipeline: DiTPipeline, folder: Path) -> None:
    """A folder for `DiTPipeline.from_pretrained`."""
    pipeline.save_pretrained(folder)
