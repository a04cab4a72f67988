"""Raw latents to coefficients: decorrelated, and scaled so that an equal error in any of them does equal harm.

Let G be the decoder's sensitivity: a small error e in the latents of one position changes the image by e' G e (sum of
squared 8-bit levels). In w = G^(1/2) (z - mean) that is the plain square. A rotation of w keeps it so, hence the
rotation is free to decorrelate: U from the covariance of w (the Karhunen-Loeve transform). With y = U' w one step for
all coefficients is the best allocation of bits for a quadratic error (reverse water-filling).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from latentcodec.threads import one_blas_thread

RESOLUTION = 8
"""Units of the integers in which coefficients are predicted, to one 8-bit level (root of summed squares)."""


@dataclass(frozen=True, eq=False)
class LatentTransform:
    """y = forward (z - mean), z = inverse y + mean, for each position; y in units of 1 / RESOLUTION levels."""

    mean: Float64[np.ndarray, " channels"]
    forward: Float64[np.ndarray, "channels channels"]
    inverse: Float64[np.ndarray, "channels channels"]

    @one_blas_thread()
    def coefficients(self, raw: Float[Tensor, "channels height width"]) -> Float64[np.ndarray, "channels height width"]:
        """From raw latents; row 0 varies most."""
        values = raw.detach().cpu().double().numpy()
        return np.einsum("ij,jhw->ihw", self.forward, values - self.mean[:, None, None], optimize=True)

    @one_blas_thread()
    def latents(
        self, coefficients: Float64[np.ndarray, "channels height width"]
    ) -> Float[Tensor, "channels height width"]:
        """Raw float32 latents."""
        values = np.einsum("ij,jhw->ihw", self.inverse, coefficients, optimize=True) + self.mean[:, None, None]
        return torch.from_numpy(values.astype(np.float32))


def fit_transform(
    mean: Float64[np.ndarray, " channels"],
    covariance: Float64[np.ndarray, "channels channels"],
    sensitivity: Float64[np.ndarray, "channels channels"],
) -> LatentTransform:
    """The transform for latents of this mean and covariance, and a decoder of this sensitivity.

    Raises:
        ValueError: the sensitivity is not positive definite: the decoder ignores some direction of the latents.
    """
    root, inverse_root = _roots(sensitivity)
    values, rotation = np.linalg.eigh(root @ covariance @ root)
    rotation = rotation[:, np.argsort(-values)]
    rotation *= np.sign(
        rotation[np.abs(rotation).argmax(axis=0), np.arange(len(mean))]
    )  # a sign that is always the same
    return LatentTransform(mean, RESOLUTION * rotation.T @ root, inverse_root @ rotation / RESOLUTION)


def _roots(matrix: Float64[np.ndarray, "n n"]) -> tuple[Float64[np.ndarray, "n n"], Float64[np.ndarray, "n n"]]:
    """Symmetric square root and its inverse; eigenvalues below 1e-6 of the largest are lifted to that."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    if not values[-1] > 0:
        raise ValueError("sensitivity: expected a positive definite matrix; the decoder does not depend on its input")
    roots = np.sqrt(np.maximum(values, 1e-6 * values[-1]))
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T
