"""What a codec gives: moments, latents and pictures of one or more images of any sizes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from latentcodec.images.pixels import to_uint8

LOGVAR_RANGE = (-30.0, 20.0)
"""Logarithms of variances are clamped to it, as diffusers does."""

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, eq=False)
class Moments:
    """The posterior of each image: a normal distribution at each position of raw (unscaled) latents."""

    mean: tuple[Float[Tensor, "channels _ _"], ...]
    """float32, one for each image; the sides are those of the padded image over the VAE's factor."""
    logvar: tuple[Float[Tensor, "channels _ _"], ...]
    """Natural logarithm of the variance, clamped to `LOGVAR_RANGE`; same shapes."""
    sizes: tuple[Size, ...]
    """Of each image before padding; decoding crops back to it."""
    methods: tuple[str, ...]
    """How each was computed: "whole", "tiles", or "tiles: " and what was approximated."""

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, index: slice) -> "Moments":
        return Moments(self.mean[index], self.logvar[index], self.sizes[index], self.methods[index])

    def sample(self, seed: int) -> tuple[Float[Tensor, "channels _ _"], ...]:
        """One draw of raw latents for each image. The noise of image i comes from a generator on the CPU seeded with
        `seed + i`, so it depends neither on the other images nor on the device."""
        return tuple(
            mean + torch.exp(0.5 * logvar) * _noise(mean, seed + index)
            for index, (mean, logvar) in enumerate(zip(self.mean, self.logvar, strict=True))
        )


@dataclass(frozen=True, eq=False)
class Latents:
    """Scaled latents, ready for a diffusion model."""

    tensors: tuple[Float[Tensor, "channels _ _"], ...]
    """float32, one for each image."""
    sizes: tuple[Size, ...]
    """Of each image before padding; decoding crops back to it."""
    methods: tuple[str, ...]
    """How each was computed, as in `Moments`."""

    @property
    def tensor(self) -> Float[Tensor, "batch channels height width"]:
        """All of them as one batch.

        Raises:
            ValueError: they differ in shape.
        """
        return stacked(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, index: slice) -> "Latents":
        return Latents(self.tensors[index], self.sizes[index], self.methods[index])


@dataclass(frozen=True, eq=False)
class Pictures:
    """Decoded images."""

    tensors: tuple[Float[Tensor, "3 _ _"], ...]
    """float32, nominally in [-1, 1] but not clamped, at the size of the original."""
    methods: tuple[str, ...]
    """How each was computed, as in `Moments`."""

    @property
    def tensor(self) -> Float[Tensor, "batch 3 height width"]:
        """All of them as one batch.

        Raises:
            ValueError: they differ in size.
        """
        return stacked(self.tensors)

    def to_uint8(self) -> list[UInt8[np.ndarray, "_ _ 3"]]:
        """Pixels, clamped and rounded.

        Raises:
            ValueError: some value is NaN or infinite.
        """
        return [to_uint8(tensor[None])[0] for tensor in self.tensors]

    def to_pil(self) -> list[Image.Image]:
        """Pillow images, mode RGB."""
        return [Image.fromarray(pixels) for pixels in self.to_uint8()]

    def __len__(self) -> int:
        return len(self.tensors)


def stacked(tensors: Sequence[Float[Tensor, "channels _ _"]]) -> Float[Tensor, "batch channels height width"]:
    """One batch of tensors that share their shape.

    Raises:
        ValueError: they do not, or there are none.
    """
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) != 1:
        found = " and ".join(" x ".join(map(str, shape)) for shape in sorted(shapes)[:3]) or "none at all"
        raise ValueError(f"one batch: expected tensors of one shape, found {found}; use .tensors, one for each image")
    return torch.stack(list(tensors))


def _noise(like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like.device)
