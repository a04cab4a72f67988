"""Raw latents <-> latents: what a VAE's config says of scale, applied as diffusers' pipelines apply it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Scaling:
    """The scale of the latents that a diffusion model works on. One of three forms, which a VAE's config decides:

    - `factor` alone (SD 1.x, SDXL): latents = raw * factor;
    - with `shift` (SD 3, FLUX.1): latents = (raw - shift) * factor;
    - with `mean` and `std` for each channel: latents = (raw - mean) * factor / std; `shift` is not used then.
    """

    factor: float
    shift: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"scaling_factor: expected a positive number, found {self.factor}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("latents_mean and latents_std: expected both or neither, found one; complete the config")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Scaling":
        """What an AutoencoderKL config says."""
        mean, std = (None if config[key] is None else tuple(config[key]) for key in ("latents_mean", "latents_std"))
        return cls(config["scaling_factor"], config["shift_factor"], mean, std)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Scaling":
        """What `to_json` gave."""
        mean, std = (None if fields[key] is None else tuple(fields[key]) for key in ("mean", "std"))
        return cls(fields["factor"], fields["shift"], mean, std)

    def to_json(self) -> dict[str, Any]:
        """Numbers, lists and None."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def apply(
        self, raw: Float[Tensor, "*batch channels height width"]
    ) -> Float[Tensor, "*batch channels height width"]:
        """Latents from raw ones."""
        return self.apply_(raw.clone())

    def apply_(
        self, raw: Float[Tensor, "*batch channels height width"]
    ) -> Float[Tensor, "*batch channels height width"]:
        """`apply`, in the memory of `raw`."""
        if self.mean is not None and self.std is not None:
            return raw.sub_(_channels(self.mean, raw)).mul_(self.factor).div_(_channels(self.std, raw))
        return (raw if self.shift is None else raw.sub_(self.shift)).mul_(self._factor)

    @cached_property
    def _factor(self) -> Tensor:
        # a number would be made into a tensor at each call, which takes longer than to scale the latents of an image
        return torch.tensor(self.factor, dtype=torch.float64)

    def apply_to_deviation(
        self, raw: Float[Tensor, "*batch channels height width"]
    ) -> Float[Tensor, "*batch channels height width"]:
        """Standard deviations of latents from those of raw ones: scaled, but not shifted."""
        return raw * self.factor if self.std is None else raw * self.factor / _channels(self.std, raw)

    def invert(
        self, latents: Float[Tensor, "*batch channels height width"]
    ) -> Float[Tensor, "*batch channels height width"]:
        """Raw latents from latents."""
        if self.mean is not None and self.std is not None:
            return latents * _channels(self.std, latents) / self.factor + _channels(self.mean, latents)
        raw = latents / self.factor
        return raw if self.shift is None else raw + self.shift


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]
