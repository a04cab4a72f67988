"""Spatial frequencies of latents, by the discrete cosine transform (DCT).

A Fourier transform takes a map to go on at its other side, and the jump there is a spectrum of its own, as steep as that
of photographs. The DCT mirrors the map at its edges and has no jump; Skorokhodov et al. ("Improving the diffusability
of autoencoders", arXiv 2502.14831) look at latents by it too. Frequencies are in cycles per latent position, from 0 to
0.5 (Nyquist) along rows and columns, and combine radially: sqrt(vertical^2 + horizontal^2), up to 0.71 in the corner.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

NYQUIST = 0.5
HIGH = NYQUIST / 2
"""From here on frequencies are "high": half as many positions along each side could not hold them."""


def dct_matrix(length: int) -> Float64[Tensor, "length length"]:
    """The orthonormal DCT-II as a matrix: row k is frequency k / (2 length)."""
    places = (torch.arange(length, dtype=torch.float64) + 0.5) / length
    matrix = math.sqrt(2 / length) * torch.cos(math.pi * torch.arange(length, dtype=torch.float64)[:, None] * places)
    matrix[0] = math.sqrt(1 / length)
    return matrix


def dct2(maps: Float[Tensor, "batch channels height width"]) -> Float64[Tensor, "batch channels height width"]:
    """Coefficients of each map. The transform is orthonormal: squares sum to those of the map, and white noise of
    variance v has the mean square v at every frequency."""
    rows, columns = (dct_matrix(side).to(maps.device) for side in maps.shape[2:])
    return rows @ maps.double() @ columns.T


def inverse_dct2(
    coefficients: Float64[Tensor, "batch channels height width"],
) -> Float64[Tensor, "batch channels height width"]:
    """Maps from what `dct2` gives."""
    rows, columns = (dct_matrix(side).to(coefficients.device) for side in coefficients.shape[2:])
    return rows.T @ coefficients @ columns


def radial_frequencies(height: int, width: int) -> Float64[Tensor, "height width"]:
    """Of each coefficient, in cycles per position."""
    vertical, horizontal = (
        torch.arange(side, dtype=torch.float64) / (2 * side) for side in (height, width)
    )  # fmt: skip
    return torch.hypot(vertical[:, None], horizontal[None, :])


def cut_high_frequencies(
    latents: Float[Tensor, "batch channels height width"], keep: float
) -> Float[Tensor, "batch channels height width"]:
    """Latents without the frequencies above `keep` (0 to 1) of the Nyquist frequency; the mean always stays."""
    height, width = latents.shape[2:]
    kept = (radial_frequencies(height, width) <= keep * NYQUIST).to(latents.device)
    return inverse_dct2(dct2(latents) * kept).to(latents.dtype)


@dataclass(frozen=True, eq=False)
class RunningSpectrum:
    """Power at each frequency, summed over maps of one size. Parts merge exactly."""

    maps: int
    power: Float64[Tensor, "channels height width"]
    """Sum of squared DCT coefficients."""

    @classmethod
    def of(cls, latents: Float[Tensor, "batch channels height width"]) -> "RunningSpectrum":
        """Of one batch."""
        return cls(len(latents), dct2(latents.detach()).square().sum(0).cpu())

    def merge(self, other: "RunningSpectrum") -> "RunningSpectrum":
        """Of both parts together.

        Raises:
            ValueError: maps of another size.
        """
        if self.power.shape != other.power.shape:
            shapes = " and ".join(" x ".join(map(str, part.power.shape)) for part in (self, other))
            raise ValueError(f"spectra: expected maps of one size, found {shapes}; crop the images to one size")
        return RunningSpectrum(self.maps + other.maps, self.power + other.power)

    def mean_power(self) -> Float64[Tensor, "channels height width"]:
        """Mean over maps of the squared coefficients, in squared units of the latents."""
        return self.power / self.maps


@dataclass(frozen=True, eq=False)
class RadialSpectrum:
    """Power as a function of the radial frequency alone."""

    frequencies: Float64[Tensor, " rings"]
    """Mean frequency in each ring of coefficients, cycles per position, rising; the mean (frequency 0) is left out."""
    power: Float64[Tensor, "channels rings"]
    """Mean over the ring, in squared units of the latents: the same everywhere for white noise."""

    @classmethod
    def of(cls, power: Float64[Tensor, "channels height width"]) -> "RadialSpectrum":
        """Rings of equal width up to the Nyquist frequency, one less than the shorter side has positions. The corners
        beyond, which have few directions, are left out."""
        height, width = power.shape[1:]
        rings = min(height, width) - 1
        frequencies = radial_frequencies(height, width).flatten()
        ring = torch.round(frequencies / NYQUIST * (rings + 1)).long()
        inside = (ring >= 1) & (ring <= rings)
        members = torch.nn.functional.one_hot(ring[inside] - 1, rings).double()
        sizes = members.sum(0)
        return cls(frequencies[inside] @ members / sizes, power.flatten(1)[:, inside] @ members / sizes)

    def slopes(self) -> Float64[Tensor, " channels"]:
        """Exponent of the power law nearest to each channel: 0 for white noise, about -2 for photographs. NaN where
        there is no power at some frequency.

        Least squares of log power against log frequency, each ring weighed by 1 / frequency, so that every octave
        counts alike.
        """
        weights = 1 / self.frequencies
        weights = weights / weights.sum()
        x = self.frequencies.log()
        y = self.power.log()
        x = x - weights @ x
        slopes = (weights * x * y).sum(1) / (weights * x.square()).sum()
        return torch.where(torch.isfinite(slopes), slopes, torch.nan)


def high_frequency_shares(power: Float64[Tensor, "channels height width"]) -> Float64[Tensor, " channels"]:
    """Share of each channel's energy, its mean apart, at frequencies of at least `HIGH`: 0 to 1.

    White noise has 80 %, since that is the share of all frequencies. NaN for a channel without energy.
    """
    frequencies = radial_frequencies(*power.shape[1:])
    energy, high = (power[:, frequencies >= least].sum(1) for least in (torch.finfo(torch.float64).tiny, HIGH))
    return high / energy
