"""Pixels between files (``uint8 [0, 255] HWC``) and networks (``float32 [-1, 1] CHW``)."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_tensor(image: UInt8[np.ndarray, "height width 3"]) -> Float[Tensor, "3 height width"]:
    """One image to ``float32`` in [-1, 1]: x / 127.5 - 1."""
    return normalize(torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C")))


def normalize(images: UInt8[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
    """``uint8`` to ``float32`` in [-1, 1] on the tensor's own device: x / 127.5 - 1.

    Sending ``uint8`` over the bus and normalising there moves a quarter of the bytes. Always ``float32``: bf16 holds
    only 8 bits, so cast afterwards, for the network.
    """
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Float[Tensor, "batch 3 height width"]) -> UInt8[np.ndarray, "batch height width 3"]:
    """[-1, 1] to ``uint8``: clamped, then rounded to nearest. Exact inverse of `normalize`.

    Raises:
        ValueError: some value is NaN or infinite.
    """
    if not torch.isfinite(images).all():
        raise ValueError(
            "images: expected finite values, found NaN or infinity; a VAE that overflows in float16 does this, "
            "run it in bfloat16 or float32"
        )
    pixels = images.detach().to(torch.float32).add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
