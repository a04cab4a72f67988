"""Whether the measurement itself is sound: codecs that others have measured too must give the same curve.

PSNR at equal bits per pixel, at each rate that was published and lies inside the measured curve, which is read there by
interpolation. Other versions of a library may differ by some hundredths of a decibel; half a decibel is a mistake.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from eval.metrics import mean_metric
from eval.rate.curves import Curve, score_at
from eval.rate.published import PublishedCurve

METRIC = "psnr"
TOLERANCE = 0.5
"""dB."""


@dataclass(frozen=True)
class Agreement:
    """A measured curve minus a published one, in dB."""

    codec: str
    published: str
    source: str
    rates: tuple[float, ...]
    """Bits per pixel that were compared; those that were published but not reached are left out."""
    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        return mean_metric(self.differences)

    @property
    def worst(self) -> tuple[float, float]:
        """The largest difference, and its rate."""
        place = max(range(len(self.rates)), key=lambda index: abs(self.differences[index]))
        return self.differences[place], self.rates[place]

    @property
    def agrees(self) -> bool:
        """Everywhere within TOLERANCE."""
        return abs(self.worst[0]) <= TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**asdict(self), "metric": METRIC, "mean": self.mean, "tolerance": TOLERANCE, "agrees": self.agrees}


def agreements(
    measured: Mapping[str, Curve], kinds: Mapping[str, str], published: Iterable[PublishedCurve]
) -> list[Agreement]:
    """Each measured codec against the published one of its kind.

    Args:
        measured: {codec: curve in PSNR}.
        kinds: {codec: kind}.
    """
    found = []
    for other in published:
        curve = other.curve(METRIC)
        for codec, kind in kinds.items():
            if curve is None or kind != other.same_as or codec not in measured:
                continue
            here = score_at(measured[codec], curve.rates)
            pairs = [
                (rate, mine - its)
                for rate, its, mine in zip(curve.rates, curve.scores, here, strict=True)
                if mine is not None
            ]
            if pairs:
                rates, differences = zip(*pairs, strict=True)
                found.append(Agreement(codec, other.codec, other.source, rates, differences))
    return found
