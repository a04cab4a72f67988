"""What every codec of a comparison is, small as it may be."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from latentcodec.latents import Moments

Picture = UInt8[np.ndarray, "height width 3"]
Stored = bytes | Moments
"""What lies between encoder and decoder: a file's bytes; the latents of a VAE that writes none."""
Quality = int | float | None
"""A codec's own scale; None for one that has none."""


class RateError(ValueError):
    """A comparison that cannot be made, or cannot be gone on with; the message says what to do."""


@dataclass(frozen=True)
class CodecOptions:
    """What codecs with networks are opened with; others need nothing."""

    dtype: str = "float32"
    """To compute in, as a name in `torch`."""
    device: str = "cpu"
    effort: int = 1
    """Of the latent byte codec, see `ImageCodec.compress`."""


@runtime_checkable
class RateCodec(Protocol):
    """Images to files and back. An instance stays in the process that opened it."""

    qualities: tuple[Quality, ...]
    """Settings to measure if none are asked for, cheapest first."""

    def encode(self, image: Picture, quality: Quality) -> Stored:
        """The whole file, header and all.

        Raises:
            RateError: a quality that the codec does not have.
        """
        ...

    def decode(self, stored: Stored) -> Picture:
        """The image in it, at the size of the original."""
        ...

    def identity(self) -> dict[str, Any]:
        """What its rows depend on beside image and quality: versions, fingerprints, options. JSON types, no paths."""
        ...


def setting_name(quality: Quality) -> str:
    """How rows call a setting: the quality; `mean` where there is none, for it is the posterior's mean that is decoded."""
    return "mean" if quality is None else f"{quality:g}"


def stored_bytes(stored: Stored) -> int | None:
    """Length of the file; None where there is none."""
    return len(stored) if isinstance(stored, bytes) else None
