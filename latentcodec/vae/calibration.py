"""Measured scale of a VAE's latents: scaling_factor, shift_factor, and mean and standard deviation per channel.

A diffusion model wants latents of unit variance. Latent diffusion (Rombach et al. 2022, arXiv:2112.10752, section
4.3.2 and appendix G) rescales them by the standard deviation over all values of all channels; SD 3 and FLUX.1 take
the mean off first; others scale each channel by its own. Statistics are kept in float64 and merged by the parallel
algorithm of Chan, Golub & LeVeque ("Updating formulae and a pairwise algorithm for computing sample variances", 1979).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, Float64
from torch import Tensor


class CalibrationError(ValueError):
    """Latents that cannot be measured: none at all, not finite, or all alike."""


@dataclass(frozen=True, eq=False)
class RunningStatistics:
    """Count, mean and sum of squared deviations of each channel, of any part of the latents. Parts merge exactly."""

    count: int
    """Values in each channel."""
    mean: Float64[Tensor, " channels"]
    squares: Float64[Tensor, " channels"]
    """Sum of squared deviations from the channel's mean."""

    @classmethod
    def of(cls, latents: Float[Tensor, "batch channels height width"]) -> "RunningStatistics":
        """The statistics of one batch."""
        values = latents.detach().cpu().double()
        mean = values.mean(dim=(0, 2, 3))
        squares = (values - mean[None, :, None, None]).square().sum(dim=(0, 2, 3))
        return cls(values.numel() // values.shape[1], mean, squares)

    def merge(self, other: "RunningStatistics") -> "RunningStatistics":
        """The statistics of both parts together (Chan et al. 1979)."""
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        squares = self.squares + other.squares + delta.square() * (self.count * other.count / count)
        return RunningStatistics(count, mean, squares)

    def std(self) -> Float64[Tensor, " channels"]:
        """Standard deviation of each channel, with the n - 1 of `Tensor.std`."""
        return (self.squares / (self.count - 1)).sqrt()

    def overall(self) -> tuple[float, float]:
        """Mean and standard deviation over the values of all channels."""
        channels = len(self.mean)
        mean = self.mean.mean()
        squares = self.squares.sum() + self.count * (self.mean - mean).square().sum()
        return mean.item(), (squares / (self.count * channels - 1)).sqrt().item()

    def to_json(self) -> dict[str, Any]:
        """Numbers and lists; `from_json` gives back the same statistics to the bit."""
        return {"count": self.count, "mean": self.mean.tolist(), "squares": self.squares.tolist()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "RunningStatistics":
        """What `to_json` wrote."""
        mean, squares = (torch.tensor(fields[name], dtype=torch.float64) for name in ("mean", "squares"))
        return cls(fields["count"], mean, squares)


@dataclass(frozen=True)
class LatentStatistics:
    """The measured scale of raw (unscaled) latents."""

    scaling_factor: float
    """1 / standard deviation over all values, as in Stable Diffusion."""
    shift_factor: float
    """Mean over all values, which SD 3 and FLUX.1 take off before scaling."""
    mean: list[float]
    """Of each channel."""
    std: list[float]
    """Of each channel."""
    count: int
    """Values in each channel that were measured."""

    @classmethod
    def of(cls, statistics: RunningStatistics) -> "LatentStatistics":
        """The scale that running statistics come to.

        Raises:
            CalibrationError: fewer than two values in a channel, or all values alike.
        """
        if statistics.count < 2:
            raise CalibrationError(f"a channel needs two values or more, found {statistics.count}; measure more images")
        mean, std = statistics.overall()
        if std == 0:
            raise CalibrationError(f"all latents are {mean:g}: the encoder gives the same for every image")
        return cls(1 / std, mean, statistics.mean.tolist(), statistics.std().tolist(), statistics.count)


def measure_latents(
    vae: AutoencoderKL,
    batches: Iterable[Float[Tensor, "_ 3 _ _"]],  # sizes may differ between batches, so they have no names
    *,
    sample: bool = True,
    seed: int = 0,
) -> LatentStatistics:
    """Encode images and measure the scale of their raw latents, batch by batch in constant memory.

    Args:
        vae: the network; images go to its device and type. Use float32 where in doubt: SDXL's overflows in float16.
        batches: images in [-1, 1], NCHW, of any sizes; every value counts alike.
        sample: measure posterior samples, which is what diffusion models train on; the posterior's mean if False.
        seed: of the noise of the samples, which is drawn on the CPU and so is the same on every device.

    Raises:
        CalibrationError: a latent that is NaN or infinite (the batch is named), no batches, or latents all alike.
    """
    generator = torch.Generator().manual_seed(seed)
    total: RunningStatistics | None = None
    for index, images in enumerate(batches):
        with torch.no_grad(), torch.autocast(vae.device.type, enabled=False):  # autocast would round the moments
            posterior = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
            latents = posterior.sample(generator=generator) if sample else posterior.mode()
        if not torch.isfinite(latents).all():
            raise CalibrationError(
                f"batch {index} ({' x '.join(str(side) for side in images.shape)}, counted from 0): "
                f"{int((~torch.isfinite(latents)).sum())} of {latents.numel()} latents are NaN or infinite; check its "
                f"images, and if the network is in float16 ({vae.dtype} here) load it in float32"
            )
        part = RunningStatistics.of(latents)
        total = part if total is None else total.merge(part)
    if total is None:
        raise CalibrationError("batches: expected at least one batch of images, found none")
    return LatentStatistics.of(total)


def write_scaling(
    vae: AutoencoderKL, statistics: LatentStatistics, *, shift: bool = False, per_channel: bool = False
) -> None:
    """Register measured scale in `vae.config`, from where pipelines and `save_vae` take it.

    - by default `scaling_factor` alone (SD 1.x, SDXL): latents = raw * scaling_factor;
    - with `shift`, `shift_factor` too (SD 3, FLUX.1): latents = (raw - shift_factor) * scaling_factor;
    - with `per_channel`, `latents_mean` and `latents_std` and a `scaling_factor` of 1:
      latents = (raw - latents_mean) / latents_std * scaling_factor.

    Fields that the chosen form does not use become None, so nothing of an earlier calibration stays.

    Raises:
        ValueError: both forms at once, or statistics of another number of channels.
    """
    if shift and per_channel:
        raise ValueError("shift and per_channel: choose one, for latents_mean already holds the shift of each channel")
    if len(statistics.mean) != vae.config.latent_channels:
        raise ValueError(
            f"statistics have {len(statistics.mean)} channels, the VAE has {vae.config.latent_channels}: they were "
            "measured with another VAE"
        )
    vae.register_to_config(
        scaling_factor=1.0 if per_channel else statistics.scaling_factor,
        shift_factor=statistics.shift_factor if shift else None,
        latents_mean=statistics.mean if per_channel else None,
        latents_std=statistics.std if per_channel else None,
    )
