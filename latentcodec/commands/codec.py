"""The codec that a command line asks for."""

from typing import Any, Literal

import torch

from latentcodec.bitstream.codec import ImageCodec
from latentcodec.codec import LatentCodec

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


def open_codec(vae: str | None, dtype: DtypeName, **options: Any) -> LatentCodec:
    """`LatentCodec.from_pretrained`, with the names that flags have."""
    return LatentCodec.from_pretrained(vae, dtype=None if dtype == "auto" else getattr(torch, dtype), **options)


def open_image_codec(vae: str | None, dtype: DtypeName, **options: Any) -> ImageCodec:
    """`ImageCodec.from_pretrained`, likewise."""
    return ImageCodec.from_pretrained(vae, dtype=None if dtype == "auto" else getattr(torch, dtype), **options)
