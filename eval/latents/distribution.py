"""Mean, deviation, skewness, kurtosis and correlation of latent channels, merged part by part in float64."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from latentcodec.vae.calibration import RunningStatistics

_RESOLUTION = 1e-8
"""A channel whose deviation is below this share of its mean is constant: float32 cannot tell more."""


@dataclass(frozen=True, eq=False)
class RunningDistribution:
    """Central moments up to the fourth of each channel, and products between channels. Parts merge exactly.

    The formulas of merging are those of Pébay ("Formulas for robust, one-pass parallel computation of covariances and
    arbitrary-order statistical moments", Sandia report SAND2008-6212, 2008).
    """

    statistics: RunningStatistics
    """Count, mean and squares."""
    cubes: Float64[Tensor, " channels"]
    """Sum of cubed deviations from the channel's mean."""
    fourths: Float64[Tensor, " channels"]
    """Sum of fourth powers of deviations."""
    products: Float64[Tensor, "channels channels"]
    """Sum of products of two channels' deviations at the same place; the diagonal is `statistics.squares`."""

    @classmethod
    def of(cls, latents: Float[Tensor, "batch channels height width"]) -> "RunningDistribution":
        """Of one batch."""
        statistics = RunningStatistics.of(latents)
        values = latents.detach().cpu().double().transpose(0, 1).flatten(1)
        deviations = values - statistics.mean[:, None]
        squares = deviations.square()
        return cls(
            statistics, (squares * deviations).sum(1), squares.square().sum(1), deviations @ deviations.T
        )  # fmt: skip

    def merge(self, other: "RunningDistribution") -> "RunningDistribution":
        """Of both parts together."""
        mine, its = self.statistics, other.statistics
        a, b = mine.count, its.count
        n = a + b
        delta = its.mean - mine.mean
        cubes = (
            self.cubes
            + other.cubes
            + delta**3 * (a * b * (a - b) / n**2)
            + 3 * delta * (a * its.squares - b * mine.squares) / n
        )
        fourths = (
            self.fourths
            + other.fourths
            + delta**4 * (a * b * (a * a - a * b + b * b) / n**3)
            + 6 * delta**2 * (a * a * its.squares + b * b * mine.squares) / n**2
            + 4 * delta * (a * other.cubes - b * self.cubes) / n
        )
        products = self.products + other.products + torch.outer(delta, delta) * (a * b / n)
        return RunningDistribution(mine.merge(its), cubes, fourths, products)

    @property
    def count(self) -> int:
        """Values in each channel."""
        return self.statistics.count

    @property
    def mean(self) -> Float64[Tensor, " channels"]:
        """Of each channel."""
        return self.statistics.mean

    def variance(self) -> Float64[Tensor, " channels"]:
        """Of each channel, with the n of a population, as all ratios here use it."""
        return self.statistics.squares / self.count

    def std(self) -> Float64[Tensor, " channels"]:
        """Square root of `variance`."""
        return self.variance().sqrt()

    def constant(self) -> Tensor:
        """Which channels never change (bool, one a channel); what would be 0/0 for them is NaN, or 0 as stated."""
        return self.std() <= _RESOLUTION * self.mean.abs()

    def skewness(self) -> Float64[Tensor, " channels"]:
        """Third standardised moment: 0 where symmetric. NaN for constant channels."""
        return self._nan_where_constant(self.cubes / self.count / self.variance() ** 1.5)

    def kurtosis(self) -> Float64[Tensor, " channels"]:
        """Excess kurtosis (Fisher's): 0 for a normal distribution, above it where tails are heavy. NaN for constant
        channels."""
        return self._nan_where_constant(self.fourths / self.count / self.variance().square() - 3)

    def covariance(self) -> Float64[Tensor, "channels channels"]:
        """Of channels at the same place, with the n of a population."""
        return self.products / self.count

    def correlation(self) -> Float64[Tensor, "channels channels"]:
        """Pearson's, in [-1, 1]; a constant channel has 0 with all others, and 1 with itself."""
        scale = torch.where(self.constant(), torch.inf, self.std())
        matrix = (self.covariance() / torch.outer(scale, scale)).clamp(-1, 1)
        return matrix.fill_diagonal_(1.0)

    def _nan_where_constant(self, values: Tensor) -> Tensor:
        return torch.where(self.constant(), torch.nan, values)


@dataclass(frozen=True)
class CorrelationSummary:
    """What a matrix of correlations comes to."""

    mean_absolute: float
    """Mean of |r| over all pairs of channels: 0 to 1; 0 for one channel."""
    largest: float
    """Largest |r| of a pair; 0 for one channel."""
    effective_channels: float
    """1 to the number of channels: exp of the entropy of the matrix's eigenvalues as shares, the effective rank of Roy
    & Vetterli (EUSIPCO 2007)."""
    shared_bits: float
    """Bits a position that the channels tell twice, were they jointly normal: -1/2 log2 det R (their total
    correlation). Infinite where one channel is a linear function of the others."""


def summarise(correlation: Float64[Tensor, "channels channels"]) -> CorrelationSummary:
    """The figures of a matrix as `RunningDistribution.correlation` gives it."""
    channels = len(correlation)
    pairs = correlation[tuple(torch.triu_indices(channels, channels, offset=1))].abs()
    eigenvalues = torch.linalg.eigvalsh(correlation).clamp(min=0)
    shares = eigenvalues / eigenvalues.sum()
    entropy = -torch.xlogy(shares, shares).sum().item()
    # Rounding leaves an eigenvalue that is 0 at about this size.
    singular = bool((eigenvalues <= channels * torch.finfo(torch.float64).eps).any())
    return CorrelationSummary(
        mean_absolute=pairs.mean().item() if len(pairs) else 0.0,
        largest=pairs.max().item() if len(pairs) else 0.0,
        effective_channels=math.exp(entropy),
        shared_bits=math.inf if singular else max(0.0, -0.5 * eigenvalues.log2().sum().item()),
    )
