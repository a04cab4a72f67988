"""Effort 2: a few gradient steps on an image's coefficients, through the decoder, for less error at the same rate.

The encoder's latents are not those from which the decoder comes nearest to the image once they are quantised. So they
are moved to minimise

    squared error of the decoded picture + weight * step^2 * bits,

where quantisation passes gradients straight through, and bits are those of a logistic distribution about what the
context model expected with the spread it gave, both taken from a first pass and held fixed. (As in Campos et al. 2019,
"Content adaptive optimization for neural image compression", arXiv:1906.01223.)
"""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from latentcodec.bitstream.context import ContextModel
from latentcodec.bitstream.context_training import code_length
from latentcodec.bitstream.lattice import Pass
from latentcodec.bitstream.rate import RATE_WEIGHT
from latentcodec.bitstream.tables import BASE_CLASSES, FRACTIONS, Split, spread
from latentcodec.bitstream.transform import RESOLUTION, LatentTransform
from latentcodec.codec import LatentCodec

UPDATES = 12
_RATE = 0.04
"""Of Adam, in steps."""
MOST_PIXELS = 2**21
"""Whose feature maps are held for the backward pass."""


def predictions(
    context: ContextModel, integers: Int64[np.ndarray, "channels height width"], step_index: int
) -> tuple[Float64[np.ndarray, "channels height width"], Float64[np.ndarray, "channels height width"]]:
    """What the context model expects at every position of these integers, and the spread it gives; in steps."""
    expected, spreads = np.zeros(integers.shape), np.zeros(integers.shape)

    def choose(channel: int, each: Pass, value: Int64[np.ndarray, " n"], where: Split) -> Int64[np.ndarray, " n"]:
        rows, columns = each.slices()
        shape = integers[channel, rows, columns].shape
        base = np.minimum(where.table // (FRACTIONS + 1), BASE_CLASSES - 1)
        expected[channel, rows, columns] = (value / 8).reshape(shape)
        spreads[channel, rows, columns] = (spread(base) * 2.0**where.shift).reshape(shape)
        return integers[channel, rows, columns].ravel()

    context.run(integers.shape[1], integers.shape[2], step_index, choose)
    return expected, spreads


def refine(
    codec: LatentCodec,
    transform: LatentTransform,
    context: ContextModel,
    image: Float[Tensor, "3 height width"],
    coefficients: Float64[np.ndarray, "channels rows columns"],
    integers: Int64[np.ndarray, "channels rows columns"],
    step_index: int,
) -> Float64[np.ndarray, "channels rows columns"]:
    """Better coefficients for this image at this step.

    Args:
        image: in [-1, 1], padded to the VAE's factor.
        integers: of a first pass at the same step.

    Raises:
        ValueError: more than MOST_PIXELS pixels.
    """
    if image[0].numel() > MOST_PIXELS:
        raise ValueError(
            f"effort: 2 takes images of at most {MOST_PIXELS} pixels, found {image[0].numel()}; use effort 1"
        )
    step = float(context.steps[step_index])
    expected, spreads = (
        torch.from_numpy(part).float().to(codec.device) for part in predictions(context, integers, step_index)
    )
    inverse = torch.from_numpy(transform.inverse).float().to(codec.device)
    mean = torch.from_numpy(transform.mean).float().to(codec.device)[:, None, None]
    scaled = torch.from_numpy(coefficients / step).float().to(codec.device).requires_grad_()
    target = image.to(codec.device)
    optimizer = torch.optim.Adam([scaled], lr=_RATE, betas=(0.5, 0.9))
    ones = torch.ones_like(scaled)
    with torch.enable_grad():
        for _ in range(UPDATES):
            quantised = scaled + (scaled.round() - scaled).detach()
            raw = torch.einsum("ij,jhw->ihw", inverse, quantised * step) + mean
            picture = codec.vae.decode(raw[None].to(codec.dtype)).sample[0].float()
            error = (127.5 * RESOLUTION / step) ** 2 * (picture - target).square().sum()
            bits = code_length(expected.flatten(), spreads.flatten().log2(), scaled.flatten(), ones.flatten()).sum()
            optimizer.zero_grad()
            (error + RATE_WEIGHT * bits).backward()
            optimizer.step()
    return scaled.detach().cpu().double().numpy() * step
