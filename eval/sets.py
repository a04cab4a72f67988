"""Distances between two sets of images by their features: rFID and KID, after torch-fidelity's protocol.

rFID: the Fréchet distance (Heusel et al. 2017, arXiv 1706.08500) between originals and reconstructions; it shrinks with the
number of images, so only figures from equally many can be compared. KID: the mean unbiased squared MMD with the kernel
(x.y / d + 1)^3 over random subsets (Binkowski et al. 2018, arXiv 1801.01401), which does not depend on that number.
Both are 0 for equal distributions and symmetric; smaller is better.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64

KID_SUBSETS, KID_SUBSET_SIZE, KID_SEED = 100, 1000, 2020
"""torch-fidelity's defaults."""


class FeatureStatistics:
    """Mean and covariance of feature vectors that come a few at a time, in float64.

    Batches are merged by Chan, Golub and LeVeque's formula (1979), which subtracts no large sums from each other; result
    and batch size are independent but for the last few bits.
    """

    def __init__(self, features: int) -> None:
        self.count = 0
        self.mean: Float64[np.ndarray, " features"] = np.zeros(features)
        self._scatter: Float64[np.ndarray, "features features"] = np.zeros((features, features))

    def update(self, batch: Float[np.ndarray, "batch features"]) -> None:
        """Add a batch of one or more."""
        values = batch.astype(np.float64)
        mean = values.mean(axis=0)
        centred = values - mean
        self._merge(len(values), mean, centred.T @ centred)

    def merge(self, other: "FeatureStatistics") -> None:
        """Add what another has seen."""
        if other.count:
            self._merge(other.count, other.mean, other._scatter)

    @property
    def covariance(self) -> Float64[np.ndarray, "features features"]:
        """With n - 1 in the denominator, as `numpy.cov`.

        Raises:
            ValueError: of fewer than two images.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two images, found {self.count}")
        return self._scatter / (self.count - 1)

    def _merge(
        self,
        count: int,
        mean: Float64[np.ndarray, " features"],
        scatter: Float64[np.ndarray, "features features"],
    ) -> None:
        total = self.count + count
        apart = mean - self.mean
        self._scatter += scatter
        self._scatter += np.outer(apart, apart) * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total


def frechet_distance(one: FeatureStatistics, other: FeatureStatistics) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2)), by torch-fidelity's own function.

    Raises:
        ValueError: fewer than two images on a side.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    first, second = ({"mu": side.mean, "sigma": side.covariance} for side in (one, other))
    return float(fid_statistics_to_metric(first, second, False)[KEY_METRIC_FID])


@dataclass(frozen=True)
class KernelDistance:
    """KID over the subsets."""

    mean: float
    std: float
    """Over the subsets; no error of the mean, since subsets overlap."""
    subsets: int
    subset_size: int


def kernel_distance(
    one: Float[np.ndarray, "images features"], other: Float[np.ndarray, "other_images features"]
) -> KernelDistance:
    """KID by torch-fidelity's own function: 100 subsets of 1000 images, or of all where there are fewer.

    In float64: in float32, as torch-fidelity has it, rounding is as large as the KID of good reconstructions.

    Raises:
        ValueError: fewer than two images on a side.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    size = min(KID_SUBSET_SIZE, len(one), len(other))
    if size < 2:
        raise ValueError(f"KID needs at least two images, found {size}")
    found = kid_features_to_metric(
        *(torch.from_numpy(side.astype(np.float64)) for side in (one, other)),
        kid_subsets=KID_SUBSETS,
        kid_subset_size=size,
        rng_seed=KID_SEED,
        verbose=False,
    )
    return KernelDistance(found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD], KID_SUBSETS, size)


class FeatureSet:
    """The features of one set of images: statistics for rFID and, on request, every vector for KID.

    Args:
        keep: hold on to the vectors, 8 KiB an image with Inception.
    """

    BATCH = 64
    """A covariance is updated with so many at once: one at a time costs as much as the network."""

    def __init__(self, *, keep: bool) -> None:
        self.keep = keep
        self._waiting: list[Float[np.ndarray, " features"]] = []
        self._kept: dict[str, Float[np.ndarray, " features"]] = {}
        self._statistics: FeatureStatistics | None = None

    def add(self, image: str, features: Float[np.ndarray, " features"]) -> None:
        """Add the vector of the image with that id."""
        if self.keep:
            self._kept[image] = features
        self._waiting.append(features)
        if len(self._waiting) == self.BATCH:
            self._flush()

    @property
    def statistics(self) -> FeatureStatistics:
        """Of all images so far.

        Raises:
            ValueError: there is none.
        """
        self._flush()
        if self._statistics is None:
            raise ValueError("features of no image: add at least two")
        return self._statistics

    @property
    def vectors(self) -> Float[np.ndarray, "images features"]:
        """All of them, sorted by image id: KID's random subsets are then the same in whatever order the images came.

        Raises:
            ValueError: they were not kept, or there is none.
        """
        if not self._kept:
            raise ValueError("no vectors: the set was made with keep=False, or holds no image")
        return np.stack([self._kept[image] for image in sorted(self._kept)])

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._statistics is None:
            self._statistics = FeatureStatistics(len(self._waiting[0]))
        self._statistics.update(np.stack(self._waiting))
        self._waiting = []
