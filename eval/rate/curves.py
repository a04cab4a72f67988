"""Rate-distortion curves: scores over bits per pixel, and how two of them are compared.

The Bjontegaard delta rate (BD-rate, VCEG-M33, 2001) is the mean over a range of scores of how many more bits one curve
needs than another for the same score, taken over the logarithm of the rate. It is that of the package `bjontegaard`, with
Akima interpolation (Herglotz et al. 2022, arXiv 2202.12565), on the curve of the means over images.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import bjontegaard
import numpy as np
from scipy.interpolate import PchipInterpolator

from eval.metrics import LOWER_IS_BETTER


@dataclass(frozen=True)
class Curve:
    """Points of one codec in one metric, cheapest first."""

    rates: tuple[float, ...]
    """Bits per pixel."""
    scores: tuple[float, ...]

    def front(self, *, lower_is_better: bool) -> "Curve":
        """Without the points that cost more than another and are no better, for nobody would use them, and without
        infinite scores, which no curve can hold. Rates and scores then go one way."""
        sign = -1 if lower_is_better else 1
        best, kept = -math.inf, []
        for rate, score in sorted(
            zip(self.rates, self.scores, strict=True), key=lambda pair: (pair[0], -sign * pair[1])
        ):
            good = sign * score
            if math.isfinite(score) and good > best:
                best = good
                kept.append((rate, score))
        return curve_of(kept)

    def up_to(self, most: float, *, lower_is_better: bool) -> "Curve":
        """The part of the front that needs at most so many bits per pixel, with a point at its end."""
        front = self.front(lower_is_better=lower_is_better)
        (end,) = score_at(front, [most], lower_is_better=lower_is_better)
        points = [point for point in zip(front.rates, front.scores, strict=True) if point[0] < most]
        return curve_of(points if end is None else [*points, (most, end)])


def curve_of(points: Iterable[tuple[float, float]]) -> Curve:
    """From (rate, score)."""
    points = list(points)
    return Curve(tuple(rate for rate, _ in points), tuple(score for _, score in points))


@dataclass(frozen=True)
class BdRate:
    """One codec against the anchor in one metric."""

    codec: str
    anchor: str
    metric: str
    percent: float | None
    """More bits than the anchor for the same score, below 0: fewer. None: undefined."""
    overlap: float
    """Share of all scores that either has which both have; the figure is about that range."""
    scores: tuple[float, float] | None
    """That range."""
    undefined: str | None
    """Why, where it is."""
    left_out: int
    """Points of both curves that another beats in rate and score."""
    most_bpp: float | None = None
    """Only what costs at most so many bits per pixel was compared; None: everything."""

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def bd_rate(
    codec: str, test: Curve, anchor_name: str, anchor: Curve, metric: str, most_bpp: float | None = None
) -> BdRate:
    """Compare two curves, or the parts of them below `most_bpp`. Never a number where they have no range of scores in
    common."""
    lower = metric in LOWER_IS_BETTER
    fronts = [curve.front(lower_is_better=lower) for curve in (anchor, test)]
    left_out = sum(len(curve.rates) for curve in (anchor, test)) - sum(len(front.rates) for front in fronts)
    if most_bpp is not None:
        fronts = [front.up_to(most_bpp, lower_is_better=lower) for front in fronts]

    def undefined(reason: str) -> BdRate:
        return BdRate(codec, anchor_name, metric, None, 0.0, None, reason, left_out, most_bpp)

    if any(len(front.rates) < 2 for front in fronts):
        return undefined("fewer than two points")
    low, high = max(min(front.scores) for front in fronts), min(max(front.scores) for front in fronts)
    whole = max(max(front.scores) for front in fronts) - min(min(front.scores) for front in fronts)
    if not low < high:
        return undefined("no overlap")
    percent = _package_bd_rate(*fronts, sign=-1 if lower else 1)
    if not -100 < percent < math.inf:
        return undefined("points too close to interpolate")
    return BdRate(codec, anchor_name, metric, percent, (high - low) / whole, (low, high), None, left_out, most_bpp)


def _package_bd_rate(anchor: Curve, test: Curve, *, sign: int) -> float:
    """In per cent. The package wants scores that rise with the rate: `sign` turns them round where they fall."""
    first, second = (np.array([curve.rates, np.multiply(sign, curve.scores)]) for curve in (anchor, test))
    with np.errstate(all="ignore"):  # of slopes between nearly equal scores; the caller looks at the result
        found = bjontegaard.bd_rate(
            *first, *second, method="akima", require_matching_points=False,
            min_overlap=0,  # the overlap is stated, so the package need not warn of it
        )  # fmt: skip
    return float(found)


def score_at(curve: Curve, rates: Iterable[float], *, lower_is_better: bool = False) -> list[float | None]:
    """Scores at other rates, by monotone cubic interpolation (PCHIP) over the logarithm of the rate; None outside."""
    front = curve.front(lower_is_better=lower_is_better)
    if len(front.rates) < 2:
        return [None for _ in rates]
    between = PchipInterpolator(np.log(front.rates), front.scores)
    return [float(between(math.log(rate))) if front.rates[0] <= rate <= front.rates[-1] else None for rate in rates]
