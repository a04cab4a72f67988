"""What the terms of an anomaly look at, for each place of an image; nothing is needed but the VAE.

A place is a position of the latents: a square of `factor` pixels. What a VAE cannot reconstruct it has not seen the like of
(pixels); the same judged by the encoder's own activations, unit-normalised at each place as LPIPS does with a classifier's
(Zhang et al. 2018, arXiv 1801.03924); and what it can reconstruct may still have latents that normal images never have.
"""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from latentcodec.codec import LatentCodec
from latentcodec.images.pixels import to_tensor
from latentcodec.padding import reflect_pad

Map = Float[Tensor, "rows columns"]

_SCALE = 1e-10
_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Look:
    """What the terms look at: an image, its reconstruction, and its latents."""

    error: Map
    """Mean absolute difference to the reconstruction in each square, on [-1, 1]."""
    features: Map
    """Squared distance of unit-normalised encoder activations, summed over the encoder's levels."""
    vectors: Float[Tensor, "rows columns features"]
    """Latents of each place, the mean of those around it, and the logarithm of their deviation."""


class EncoderFeatures:
    """The activations of a VAE's encoder after each of its levels."""

    def __init__(self, vae: AutoencoderKL) -> None:
        self._vae = vae

    @torch.inference_mode()
    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> list[Float[Tensor, "batch _ _ _"]]:
        """One for each level, the finest first, in float32."""
        encoder = self._vae.encoder
        activations = []
        hidden = encoder.conv_in(images.to(self._vae.dtype))
        for block in encoder.down_blocks:
            hidden = block(hidden)
            activations.append(hidden.float())
        return activations


def look(codec: LatentCodec, image: UInt8[np.ndarray, "height width 3"]) -> Look:
    """Everything that the terms need of one image, on the CPU."""
    moments = codec.encode_moments(image)
    latents = codec.scaling.apply(moments.mean[0]).cpu()
    rows, columns = latents.shape[1:]
    original = reflect_pad(to_tensor(image)[None], codec.factor)
    again = reflect_pad(codec.decode(moments).tensors[0].clamp(-1, 1)[None].cpu(), codec.factor)
    error = F.avg_pool2d((original - again).abs().mean(1, keepdim=True), codec.factor)[0, 0]
    pair = torch.cat([original, again]).to(codec.device)
    distances = torch.zeros(1, 1, rows, columns)
    for activation in EncoderFeatures(codec.vae)(pair):
        one, other = (activation / (activation.square().sum(1, keepdim=True).sqrt() + _SCALE)).cpu()
        apart = (one - other).square().sum(0)[None, None]
        distances += F.adaptive_avg_pool2d(apart, (rows, columns))
    return Look(error, distances[0, 0], _neighbourhoods(latents))


def _neighbourhoods(latents: Float[Tensor, "channels rows columns"]) -> Float[Tensor, "rows columns features"]:
    """Each place's latents, and mean and deviation over the 3 x 3 places around it."""
    padded = F.pad(latents[None], (1, 1, 1, 1), mode="replicate")
    mean = F.avg_pool2d(padded, 3, stride=1)
    variance = (F.avg_pool2d(padded.square(), 3, stride=1) - mean.square()).clamp_min(_LEAST_VARIANCE)
    return torch.cat([latents, mean[0], 0.5 * variance[0].log()]).permute(1, 2, 0)
