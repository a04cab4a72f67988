"""The codec that a command line asks for."""

from pathlib import Path
from typing import Any, Literal

import torch

from latentcodec.bitstream.codec import ImageCodec
from latentcodec.bitstream.model import load_model
from latentcodec.codec import LatentCodec
from latentcodec.commands import CommandError

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


def open_codec(vae: str | None, dtype: DtypeName, **options: Any) -> LatentCodec:
    """`LatentCodec.from_pretrained`, with the names that flags have."""
    return LatentCodec.from_pretrained(vae, dtype=None if dtype == "auto" else getattr(torch, dtype), **options)


def open_image_codec(vae: str | None, dtype: DtypeName, **options: Any) -> ImageCodec:
    """The byte codec of a VAE on this machine that was prepared for it. Scaling plays no part.

    Raises:
        CommandError: no VAE named.
    """
    if vae is None:
        raise CommandError("--vae: expected a VAE that `latentcodec prepare-bitstream` has prepared, found none")
    codec = open_codec(vae, dtype, scaling_factor=1.0, **options)
    return ImageCodec(codec, load_model(Path(vae), codec.fingerprint))
