"""A Gaussian fitted to vectors that come a few at a time, and how far others lie from it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

_SHRINKAGE = 0.01
"""Share of the mean variance that is mixed into the covariance: directions that never varied are not infinitely strange."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean and whitening of a normal distribution."""

    mean: Float[Tensor, " features"]
    whitening: Float[Tensor, "features features"]
    """Rows w with cov(w x) = identity: the inverse of the covariance's lower Cholesky factor."""

    def distances(self, vectors: Float[Tensor, "some features"]) -> Float[Tensor, " some"]:
        """Mahalanobis distance over the root of the number of features: about 1 for what the Gaussian was fitted to."""
        whitened = (vectors - self.mean) @ self.whitening.T
        return whitened.square().mean(dim=1).sqrt()


class GaussianFit:
    """Sums of vectors and of their products, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Float64[Tensor, " features"] | None = None
        self._products: Float64[Tensor, "features features"] | None = None

    def add(self, vectors: Float[Tensor, "some features"]) -> None:
        """Take in some vectors."""
        values = vectors.double()
        total, products = values.sum(0), values.T @ values
        self._sum = total if self._sum is None else self._sum + total
        self._products = products if self._products is None else self._products + products
        self.count += len(values)

    def fitted(self) -> Gaussian:
        """The Gaussian, its covariance shrunk a little towards a multiple of the identity.

        Raises:
            ValueError: no more vectors than features.
        """
        if self._sum is None or self._products is None or self.count <= len(self._sum):
            need = "" if self._sum is None else f" of {len(self._sum)} features"
            raise ValueError(f"a Gaussian{need} needs more vectors than features, found {self.count}; give more images")
        mean = self._sum / self.count
        covariance = self._products / self.count - torch.outer(mean, mean)
        spread = covariance.diagonal().mean()
        covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * spread * torch.eye(len(mean), dtype=torch.float64)
        factor = torch.linalg.cholesky(covariance)
        whitening = torch.linalg.solve_triangular(factor, torch.eye(len(mean), dtype=torch.float64), upper=False)
        return Gaussian(mean.float(), whitening.float())
