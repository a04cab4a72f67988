"""What a VAE makes of an image: through the latents and back, on uint8 pixels."""

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import UInt8

from latentcodec.images.pixels import to_tensor, to_uint8


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """Decode the posterior's mean of `image`, whose sides must be multiples of the VAE's factor; rounded to uint8."""
    pixels = to_tensor(image)[None].to(device=vae.device, dtype=vae.dtype)
    return to_uint8(vae.decode(vae.encode(pixels).latent_dist.mean).sample.float())[0]
