"""Codecs with a VAE inside: latents to bytes, and the ceiling, latents that are not quantised."""

from typing import Any

import torch

from eval.rate.codec import CodecOptions, Picture, Quality, RateError, Stored
from latentcodec.bitstream.codec import ImageCodec
from latentcodec.bitstream.quality import QUALITIES
from latentcodec.codec import LatentCodec


class LatentBytes:
    """.lvc files of a VAE that `latentcodec prepare-bitstream` has prepared.

    Args:
        source: its folder or file.

    Raises:
        VAELoadError, BitstreamError: see `ImageCodec.from_pretrained`.
    """

    qualities: tuple[Quality, ...] = (5, 15, 25, 35, 45, 55, 65, 75, 85)

    def __init__(self, source: str, options: CodecOptions) -> None:
        self.codec = ImageCodec.from_pretrained(source, **_network(options))
        self.effort, self.dtype = options.effort, options.dtype

    def encode(self, image: Picture, quality: Quality) -> bytes:
        """Network, quantiser and entropy coder."""
        if quality is None or not 1 <= quality <= QUALITIES:
            raise RateError(f"latentcodec: expected a quality 1 ... {QUALITIES}, found {quality}")
        return self.codec.compress(image, quality=float(quality), effort=self.effort).data

    def decode(self, stored: Stored) -> Picture:
        if not isinstance(stored, bytes):
            raise TypeError(f"latentcodec: expected bytes, found {type(stored).__name__}")
        return self.codec.decompress(stored)

    def identity(self) -> dict[str, Any]:
        """The weights, the model of the bitstream, and how both are used."""
        return {
            **_identity(self.codec.codec, self.dtype), "bitstream": f"sha256:{self.codec.model.hash()}",
            "effort": self.effort,
        }  # fmt: skip


class Ceiling:
    """A VAE without bytes: its posterior's mean, decoded as it is. Files come near to it as their steps get finer; only
    latents that were refined for the image they stand for can be better.

    Args:
        source: anything that `load_vae` takes.

    Raises:
        VAELoadError: see `load_vae`.
    """

    qualities: tuple[Quality, ...] = (None,)

    def __init__(self, source: str, options: CodecOptions) -> None:
        self.codec = LatentCodec.from_pretrained(source, **_network(options))
        self.dtype = options.dtype

    def encode(self, image: Picture, quality: Quality) -> Stored:
        if quality is not None:
            raise RateError(f"vae: it has no qualities, found {quality:g}")
        return self.codec.encode_moments([image])

    def decode(self, stored: Stored) -> Picture:
        if isinstance(stored, bytes):
            raise TypeError("vae: expected moments, found bytes")
        return self.codec.decode(stored).to_uint8()[0]

    def identity(self) -> dict[str, Any]:
        """The weights, and what is computed in."""
        return _identity(self.codec, self.dtype)


def _network(options: CodecOptions) -> dict[str, Any]:
    # Raw latents all the way: scaling plays no part, so a file that does not say it is as good.
    return {"dtype": getattr(torch, options.dtype), "device": options.device, "scaling_factor": 1.0}


def _identity(codec: LatentCodec, dtype: str) -> dict[str, Any]:
    return {
        "fingerprint": codec.fingerprint, "latent_channels": codec.vae.config.latent_channels, "factor": codec.factor,
        "dtype": dtype,
    }  # fmt: skip
