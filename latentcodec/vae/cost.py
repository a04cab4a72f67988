"""Parameters and multiply-accumulates of a VAE, counted on the meta device: no weights, no arithmetic."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch.utils.flop_counter import FlopCounterMode

from latentcodec.vae.geometry import empty_vae


@dataclass(frozen=True)
class VaeCost:
    """Size of a VAE, and the work for one image."""

    parameters: int
    encoder_parameters: int
    """Those of `encoder` and `quant_conv`."""
    encode_gmac: float
    """1e9 multiply-accumulates to encode one image: convolutions, projections and attention; norms are not counted."""
    decode_gmac: float


def vae_cost(config_or_vae: Mapping[str, Any] | AutoencoderKL, height: int, width: int) -> VaeCost:
    """The cost of encoding and of decoding one image of `height` x `width` pixels.

    One multiply-accumulate is two of the operations that `torch.utils.flop_counter` counts. The geometry of Stable
    Diffusion takes 136.4 GMAC to encode 256 x 256 pixels and 311.1 to decode them.

    Raises:
        ValueError: a side is not a positive multiple of the downsampling factor.
    """
    config = config_or_vae.config if isinstance(config_or_vae, AutoencoderKL) else config_or_vae
    vae = empty_vae(config)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if height < factor or width < factor or height % factor or width % factor:
        raise ValueError(f"height and width must be positive multiples of {factor} pixels, found {height} x {width}")
    images = torch.empty(1, vae.config.in_channels, height, width, device="meta")
    with torch.no_grad():
        with FlopCounterMode(display=False) as encoding:
            latents = vae.encode(images).latent_dist.mean
        with FlopCounterMode(display=False) as decoding:
            vae.decode(latents)
    encoder_side = [vae.encoder] if vae.quant_conv is None else [vae.encoder, vae.quant_conv]
    return VaeCost(
        parameters=sum(p.numel() for p in vae.parameters()),
        encoder_parameters=sum(p.numel() for module in encoder_side for p in module.parameters()),
        encode_gmac=encoding.get_total_flops() / 2e9,
        decode_gmac=decoding.get_total_flops() / 2e9,
    )
