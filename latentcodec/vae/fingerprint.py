"""The identity of a VAE's weights: one hash, whatever file they came in."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from latentcodec.vae.stored import StoredTensor

if TYPE_CHECKING:
    import diffusers
    import torch

FINGERPRINT_HEADER = b"latentcodec weights 1\n"


def weights_fingerprint(vae: "diffusers.AutoencoderKL | Mapping[str, torch.Tensor | StoredTensor]") -> str:
    """The fingerprint of a VAE, or of its tensors by diffusers name: "sha256:" and 64 hexadecimal digits.

    The recipe, for those who want to compute it elsewhere. SHA-256 over these bytes, in this order:

    1. the ASCII line `latentcodec weights 1` and a newline (byte 10);
    2. for each tensor, in the order of their diffusers names sorted by code point (today's names: `to_q`, `to_out.0`):
       a line with the name, a space, the sides joined by `x` and a newline, in ASCII, such as
       `encoder.conv_in.weight 128x3x3x3`; then the values in row-major order as little-endian IEEE float32.

    Values are taken to float32 before hashing. That is exact for float16 and bfloat16, so a file in half precision
    and the same file loaded into float32 agree; weights *rounded* to half precision are other weights and get another
    fingerprint. LDM single files and diffusers folders of the same weights agree, as do all devices and memory
    formats. The config (norm groups, scaling factor) is not part of it: store it beside the fingerprint.
    """
    state = vae if isinstance(vae, Mapping) else _plain_state(vae)
    digest = hashlib.sha256(FINGERPRINT_HEADER)
    for key in sorted(state):
        values = _float32(state[key])
        digest.update(f"{key} {'x'.join(str(side) for side in values.shape)}\n".encode("ascii"))
        digest.update(values.data)
    return f"sha256:{digest.hexdigest()}"


def _plain_state(vae: "diffusers.AutoencoderKL") -> "dict[str, torch.Tensor]":
    from latentcodec.vae.weights import plain_state

    return plain_state(vae)


def _float32(values: "torch.Tensor | StoredTensor") -> np.ndarray:
    if isinstance(values, StoredTensor):
        return np.ascontiguousarray(values.float32())
    return values.detach().cpu().float().contiguous().numpy().astype("<f4", copy=False)
