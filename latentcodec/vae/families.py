"""The public families of latents, told apart by channels, scale and shift. Reads the config only; imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """Diffusion models that share one VAE, hence one kind of latents: (moments - shift) * scale."""

    name: str
    latent_channels: int
    scaling_factor: float
    shift_factor: float


# fmt: off
FAMILIES = (
    #      name                            channels  scale    shift
    Family("Stable Diffusion 1, 2; DiT",    4,       0.18215, 0.0),
    Family("Stable Diffusion XL; PixArt-Σ", 4,       0.13025, 0.0),
    Family("Stable Diffusion 3",           16,       1.5305,  0.0609),
    Family("FLUX.1",                       16,       0.3611,  0.1159),
)
# fmt: on


def guess_family(config: Mapping[str, Any]) -> str | None:
    """Name of the family whose channels, scale and shift this AutoencoderKL config has; None if it is none of them.

    A guess: weights that were trained further, as decoders often are, keep these numbers.
    """
    if config["scaling_factor"] is None:  # a single file that does not say it
        return None
    for family in FAMILIES:
        if (
            config["latent_channels"] == family.latent_channels
            and math.isclose(config["scaling_factor"], family.scaling_factor, rel_tol=1e-4)
            and math.isclose(config["shift_factor"] or 0.0, family.shift_factor, rel_tol=1e-4)
        ):
            return family.name
    return None
