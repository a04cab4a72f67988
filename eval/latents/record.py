"""One VAE's row of results: every figure with JSON types, from what the two passes have added up."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from eval.latents.distribution import RunningDistribution, summarise
from eval.latents.disturbances import DecodedError, mean_errors
from eval.latents.measure import Decoded, Survey
from eval.latents.posteriors import active, posterior_share
from eval.latents.spectrum import RadialSpectrum, high_frequency_shares
from eval.rows import finite_or_text
from latentcodec.scaling import Scaling
from latentcodec.vae.calibration import RunningStatistics

Number = float | int | str | None
"""A figure in JSON: infinities as text, None where it is undefined."""

Row = dict[str, Any]
"""One VAE's figures, or part of them."""

NOTHING_DECODED: Row = {"equivariance": {}, "noise": {}, "cut": {}}
"""In the place of `decoded_fields` where nothing was."""


def number(value: float) -> Number:
    """As JSON can hold it."""
    return None if math.isnan(value) else finite_or_text(value)


def numbers(values: Tensor) -> Any:
    """A tensor as lists of `number`."""
    if values.ndim == 0:
        return number(values.item())
    return [numbers(value) for value in values]


def scale_fields(statistics: RunningStatistics, scaling: Scaling) -> Row:
    """The scaling factor that raw latents ask for, and what the scale that a config has makes of them.

    A diffusion model wants `scaled_std` near 1, and `scaled_mean` near 0.
    """
    raw = torch.ones(len(statistics.mean), 1, 1, dtype=torch.float64)
    offset, end = (scaling.apply(value * raw).flatten() for value in (0, 1))  # scaling is affine in each channel
    gain = end - offset
    scaled = RunningStatistics(statistics.count, offset + gain * statistics.mean, statistics.squares * gain.square())
    mean, std = scaled.overall()
    raw_std = statistics.overall()[1]
    asked = 1 / raw_std if raw_std > 0 else math.inf
    return {"measured_scaling_factor": number(asked), "scaled_mean": mean, "scaled_std": std}


def survey_fields(survey: Survey, pixels: int) -> Row:
    """Figures of the first pass: those over all channels, then `per_channel`, `correlation` and `spectrum`.

    Args:
        pixels: of one image.
    """
    distribution, posteriors = survey.distribution, survey.posteriors
    variance = distribution.variance()
    power = survey.spectrum.mean_power()
    nats = posteriors.kl_nats_per_image().sum().item()
    overall_mean, overall_std = distribution.statistics.overall()
    radial = RadialSpectrum.of(power)
    pooled = RadialSpectrum(radial.frequencies, radial.power.sum(0, keepdim=True))
    kurtosis = distribution.kurtosis()
    return {
        "images": posteriors.images,
        "channels": len(variance),
        "active_channels": int(active(variance).sum()),
        "mean": overall_mean,
        "std": overall_std,
        "kurtosis": number(kurtosis.nanmean().item()),
        "channel_correlation": {key: number(value) for key, value in asdict(summarise(distribution.correlation())).items()},
        "kl_nats": nats,
        "kl_bits": nats / math.log(2),
        "kl_bits_per_pixel": nats / math.log(2) / pixels,
        "posterior_share": number(posterior_share(posteriors.variance(), variance)),
        "spectral_slope": numbers(pooled.slopes())[0],
        "high_frequency_share": numbers(high_frequency_shares(power.sum(0, keepdim=True)))[0],
        "per_channel": _per_channel(survey, radial),
        "correlation": numbers(distribution.correlation()),
        "spectrum": {"frequencies": numbers(radial.frequencies), "power": numbers(radial.power)},
    }  # fmt: skip


def _per_channel(survey: Survey, radial: RadialSpectrum) -> list[Row]:
    distribution, posteriors = survey.distribution, survey.posteriors
    power = survey.spectrum.mean_power()
    changing = ~distribution.constant()
    posterior_std = posteriors.variance().sqrt()
    columns = {
        "mean": distribution.mean,
        "std": distribution.std(),
        "skewness": distribution.skewness(),
        "kurtosis": distribution.kurtosis(),
        "kl_nats": posteriors.kl_nats_per_image(),
        "posterior_std": posterior_std,
        "posterior_share": posterior_std / distribution.std(),
        "spectral_slope": torch.where(changing, radial.slopes(), torch.nan),
        "high_frequency_share": torch.where(changing, high_frequency_shares(power), torch.nan),
    }
    flags = active(distribution.variance()).tolist()
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*map(numbers, columns.values()), strict=True)]
    return [{**row, "active": flag} for row, flag in zip(rows, flags, strict=True)]


def decoded_fields(decoded: Decoded, distribution: RunningDistribution) -> Row:
    """Figures of the second pass: `equivariance` by transform, `noise` by size and `cut` by the share kept."""
    variance = distribution.variance()
    return {
        "equivariance": {
            name: {
                "latent_error": number(found.latent_error(variance)),
                "channel_errors": numbers(found.channel_errors(variance)),
                "decoded": _errors(found.decoded),
            }
            for name, found in decoded.equivariance.items()
        },
        "noise": {f"{size:g}": _errors(errors) for size, errors in decoded.noise.items()},
        "cut": {f"{keep:g}": _errors(errors) for keep, errors in decoded.cut.items()},
    }


def _errors(errors: Sequence[DecodedError]) -> dict[str, Number]:
    return {"images": len(errors), **{name: number(value) for name, value in mean_errors(errors).items()}}
