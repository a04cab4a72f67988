"""How far a mean over images can be trusted: bootstrap intervals, also of the difference of two codecs.

The percentile bootstrap of Efron (1979): images are drawn with replacement, as many as there are, and the mean is taken
again; an interval holds the middle part of these means. It speaks of other images like these, not of training runs or
random seeds. With few images it is too narrow.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from eval.metrics import mean_metric
from eval.rows import finite_or_text

Scores = Mapping[str, float]
"""Image id -> score."""

_DRAWS_AT_ONCE = 2**20


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made; the same for every figure of a run."""

    resamples: int = 2000
    confidence: float = 0.95
    """Share of the resampled means inside the interval."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise ValueError(f"resamples: expected at least 1, found {self.resamples}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence: expected a share between 0 and 1, found {self.confidence}")


@dataclass(frozen=True)
class Interval:
    """A mean over images with its bootstrap interval."""

    mean: float
    low: float
    high: float
    images: int

    def as_dict(self) -> dict[str, Any]:
        """JSON types; infinite values as text, see `eval.rows.finite_or_text`."""
        return {name: finite_or_text(value) if name != "images" else value for name, value in asdict(self).items()}


def mean_interval(scores: Scores, bootstrap: Bootstrap) -> Interval:
    """The mean of per-image scores, and its interval. The order of the images does not matter.

    Raises:
        ValueError: no scores, or a NaN among them.
    """
    values = np.array([scores[image] for image in sorted(scores)], dtype=np.float64)
    mean = mean_metric(values.tolist())
    means = resampled_means(values, bootstrap)
    outside = (1 - bootstrap.confidence) / 2
    # Without interpolation, which would make NaN of two infinite neighbours.
    low, high = np.quantile(means, [outside, 1 - outside], method="inverted_cdf")
    return Interval(mean, float(low), float(high), len(values))


def paired_difference(scores: Scores, baseline: Scores, bootstrap: Bootstrap) -> Interval:
    """The mean over images of `scores` minus `baseline`, image by image, and its interval.

    Most of a score is the image's, not the codec's, and cancels: the interval is far narrower than those of the two
    means, and where it leaves out 0 the codecs differ. Equal scores differ by 0, two infinite ones among them.

    Raises:
        ValueError: the two are not of the same images, or there are none.
    """
    if scores.keys() != baseline.keys():
        apart = sorted(scores.keys() ^ baseline.keys())
        raise ValueError(f"expected two scores for each image, found one for {', '.join(apart[:5])}")
    return mean_interval(
        {image: 0.0 if score == baseline[image] else score - baseline[image] for image, score in scores.items()},
        bootstrap,
    )


def resampled_means(values: Float64[np.ndarray, " images"], bootstrap: Bootstrap) -> Float64[np.ndarray, " resamples"]:
    """The mean of each resample. The draws are a function of the seed and the number of images alone, so that resample r
    holds the same images for every codec."""
    random = np.random.default_rng(bootstrap.seed)
    rows = max(1, _DRAWS_AT_ONCE // len(values))
    means = []
    for first in range(0, bootstrap.resamples, rows):
        shape = (min(rows, bootstrap.resamples - first), len(values))
        drawn: Int64[np.ndarray, "rows images"] = random.integers(len(values), size=shape)
        means.append(values[drawn].mean(axis=1))
    return np.concatenate(means)
