"""What somebody else does with an export, knowing only diffusers: load it, and put it into a Stable Diffusion pipeline.

Run by train/demo.py in a fresh isolated process: python -I demo_use.py EXPORT PHOTOS OUT. Prints one line of JSON.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

SIDE = 256
_WIDTH = 32


def random_pipeline(latent_channels: int) -> StableDiffusionPipeline:
    """A Stable Diffusion pipeline of small random parts, with a small random VAE."""
    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=1000, hidden_size=_WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
        )
    )
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8, in_channels=latent_channels, out_channels=latent_channels, layers_per_block=1,
        block_out_channels=(_WIDTH, 2 * _WIDTH), cross_attention_dim=_WIDTH, attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(_WIDTH,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=latent_channels,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=None, unet=unet, scheduler=DDIMScheduler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def load_photo(path: Path) -> torch.Tensor:
    """Centre square of SIDE pixels, float32 in [-1, 1], shape (1, 3, SIDE, SIDE)."""
    image = Image.open(path).convert("RGB")
    scale = SIDE / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    pixels = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)), np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]


@torch.no_grad()
def main(export: str, photos: str, out: str) -> None:
    logging.set_verbosity_error()
    vae, loading = AutoencoderKL.from_pretrained(export, output_loading_info=True)
    assert not any(loading.values()), f"keys do not fit: {loading}"
    photo = load_photo(sorted(Path(photos).iterdir())[0])
    latents = vae.encode(photo).latent_dist.mean * vae.config.scaling_factor

    pipe = random_pipeline(vae.config.latent_channels)
    pipe.register_modules(vae=vae)  # both reduce by 8, so the pipeline's own factor stays right
    pipe.set_progress_bar_config(disable=True)
    embeddings = pipe.text_encoder(torch.arange(8)[None]).last_hidden_state
    # The random UNet has nothing to say, so the photograph's latents go in at the last time step, where noise is small.
    denoised = pipe(
        prompt_embeds=embeddings, guidance_scale=1.0, num_inference_steps=1, height=SIDE, width=SIDE,
        latents=latents, output_type="latent",
    ).images  # fmt: skip
    picture = pipe.image_processor.postprocess(pipe.vae.decode(latents / vae.config.scaling_factor).sample, "np")[0]
    sampled = pipe.image_processor.postprocess(pipe.vae.decode(denoised / vae.config.scaling_factor).sample, "np")[0]
    original = (photo[0].permute(1, 2, 0).numpy() + 1) / 2
    sheet = np.concatenate([original, picture, sampled], axis=1)
    Image.fromarray((sheet * 255).round().astype(np.uint8)).save(Path(out) / "through_pipeline.png")
    psnr = float(10 * np.log10(1 / np.mean((original - picture) ** 2)))
    print(json.dumps({"psnr_through_pipeline": psnr, "latent_std": float(latents.std()), "keys_that_do_not_fit": 0}))


if __name__ == "__main__":
    main(*sys.argv[1:])
