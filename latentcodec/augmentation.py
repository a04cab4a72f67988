"""Latents moved a little, at random: other images of the same things."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Field = Float[Tensor, "batch channels height width"]

COARSE = 8
"""Latents from one free value to the next in `smooth` noise: 64 pixels for a factor of 8."""


def posterior_noise(deviation: Field, generator: torch.Generator) -> Field:
    """As wide as the VAE's own posterior: what it takes for the same image."""
    return deviation * torch.randn(deviation.shape, generator=generator)


def white_noise(deviation: Field, generator: torch.Generator) -> Field:
    """Deviation 1 at every place, each for itself: fine texture."""
    return torch.randn(deviation.shape, generator=generator)


def smooth_noise(deviation: Field, generator: torch.Generator) -> Field:
    """Mean square 1 over the image, changing slowly across it: light, colour and soft shapes."""
    *leading, height, width = deviation.shape
    coarse = torch.randn(*leading, -(-height // COARSE) + 1, -(-width // COARSE) + 1, generator=generator)
    field = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    return field / field.square().mean(dim=(2, 3), keepdim=True).sqrt()


KINDS: dict[str, Callable[[Field, torch.Generator], Field]] = {
    "posterior": posterior_noise,
    "white": white_noise,
    "smooth": smooth_noise,
}
"""Displacements of size 1 by name: (posterior's deviation in scaled latents, generator on the CPU) -> displacement."""


@dataclass(frozen=True)
class Augmentation:
    """A random displacement of scaled latents, which vary by about 1 over a data set.

    Raises ValueError for an unknown kind or a negative size.
    """

    kind: str = "posterior"
    """A name in `KINDS`."""
    size: float = 1.0
    """Times what the kind calls 1."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}; found {self.kind!r}")
        if not 0 <= self.size < float("inf"):
            raise ValueError(f"size: expected a number of at least 0, found {self.size}")

    @property
    def needs_deviation(self) -> bool:
        """Whether the posterior's width plays a part: a store of means alone does not have it."""
        return self.kind == "posterior"

    def displacement(
        self, deviation: Float[Tensor, "channels height width"], seed: int
    ) -> Float[Tensor, "channels height width"]:
        """What to add to one image's scaled latents; on the CPU. The same for the same seed, whatever else is done.

        Args:
            deviation: of the posterior, in scaled latents; of other kinds its shape alone is used.
        """
        generator = torch.Generator().manual_seed(seed)
        return self.size * KINDS[self.kind](deviation[None].cpu(), generator)[0]
