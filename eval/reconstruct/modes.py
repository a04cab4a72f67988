"""What a VAE makes of an image: through the latents and back, on uint8 pixels."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from diffusers import AutoencoderKL
from jaxtyping import UInt8

from eval.pairing import timed_result
from latentcodec.codec import LatentCodec
from latentcodec.latents import Moments

Mode = Literal["mean", "sample"]
"""Which latents are decoded: the posterior's mean, or one draw from it."""
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """One image, given back."""

    pixels: UInt8[np.ndarray, "height width 3"]
    """At the size of the original."""
    encode_seconds: float
    decode_seconds: float
    method: str
    """How it was computed: "whole", "tiles", or "tiles: " and what was approximated."""


def reconstruct(vae: AutoencoderKL, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """Decode the posterior's mean of an image of any size, in the network's own type; rounded to uint8.

    Raises:
        ValueError: the network gives values that are not finite.
    """
    return LatentCodec(vae).reconstruct([image]).to_uint8()[0]


def reconstruct_modes(
    codec: LatentCodec, image: UInt8[np.ndarray, "height width 3"], modes: Iterable[Mode], *, seed: int
) -> dict[Mode, Reconstruction]:
    """Encode an image once and decode it in each of `modes`.

    Args:
        seed: of the draw; the noise depends on nothing else but the shape of the latents.

    Raises:
        ValueError: the network gives values that are not finite, in float16 for example.
    """
    moments, encode_seconds = timed_result(lambda: codec.encode_moments([image]), codec.device)
    results = {}
    for mode in modes:
        # Raw latents all the way: scaling plays no part, so neither does a wrong scaling factor.
        chosen = moments if mode == "mean" else replace(moments, mean=moments.sample(seed))
        results[mode] = _decoded(codec, chosen, encode_seconds)
    return results


def _decoded(codec: LatentCodec, moments: Moments, encode_seconds: float) -> Reconstruction:
    pictures, seconds = timed_result(lambda: codec.decode(moments), codec.device)
    method = next((how for how in (*moments.methods, *pictures.methods) if how != "whole"), "whole")
    return Reconstruction(pictures.to_uint8()[0], encode_seconds, seconds, method)


def image_seed(seed: int, image: str) -> int:
    """The seed of an image's draw: a function of the run's seed and its id, so that order and other images do not matter."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{image}".encode()).digest()[:6], "little")
