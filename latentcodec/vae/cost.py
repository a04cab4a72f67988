"""Parameters and multiply-accumulates of a VAE, counted from its config: no weights, no arithmetic, no torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from latentcodec.vae.blueprint import Layer, decoder_layers, encoder_layers, full_config

if TYPE_CHECKING:
    import diffusers


@dataclass(frozen=True)
class VaeCost:
    """Size of a VAE, and the work for one image."""

    parameters: int
    encoder_parameters: int
    """Those of `encoder` and `quant_conv`."""
    encode_gmac: float
    """1e9 multiply-accumulates to encode one image: convolutions, projections and attention; norms are not counted."""
    decode_gmac: float


def vae_cost(config_or_vae: "Mapping[str, Any] | diffusers.AutoencoderKL", height: int, width: int) -> VaeCost:
    """The cost of encoding and of decoding one image of `height` x `width` pixels.

    One multiply-accumulate is two of the operations that `torch.utils.flop_counter` counts. The geometry of Stable
    Diffusion takes 136.4 GMAC to encode 256 x 256 pixels and 311.1 to decode them.

    Raises:
        ValueError: a side is not a positive multiple of the downsampling factor.
    """
    config = full_config(config_or_vae if isinstance(config_or_vae, Mapping) else config_or_vae.config)
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    if height < factor or width < factor or height % factor or width % factor:
        raise ValueError(f"height and width must be positive multiples of {factor} pixels, found {height} x {width}")
    encoder, decoder = list(encoder_layers(config)), list(decoder_layers(config))
    return VaeCost(
        parameters=_parameters(encoder) + _parameters(decoder),
        encoder_parameters=_parameters(encoder),
        encode_gmac=sum(layer.macs(height, width) for layer in encoder) / 1e9,
        decode_gmac=sum(layer.macs(height, width) for layer in decoder) / 1e9,
    )


def _parameters(layers: Iterable[Layer]) -> int:
    return sum(prod(shape) for layer in layers for shape in layer.shapes().values())
