"""Curves that others have published, of the Kodak images. They are drawn beside measured ones, never listed among them."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from eval.rate.curves import Curve, curve_of

FILE = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class PublishedCurve:
    """One codec."""

    codec: str
    same_as: str | None
    """Kind of codec in `eval.rate.registry.CODECS` that ought to give the same curve; None: none."""
    protocol: str
    source: str
    bpp: tuple[float, ...]
    metrics: dict[str, tuple[float, ...]]
    """A score for each rate, by metric."""

    def curve(self, metric: str) -> Curve | None:
        """None where the metric was not published."""
        if metric not in self.metrics:
            return None
        return curve_of(zip(self.bpp, self.metrics[metric], strict=True))


@dataclass(frozen=True)
class Published:
    """Curves, and the images that they are about."""

    images: str
    pixels_digest: str
    """`ImageSet.pixels_digest` of these images, whole."""
    curves: tuple[PublishedCurve, ...]


@cache
def published() -> Published:
    """Everything in `FILE`."""
    record = json.loads(FILE.read_text("utf-8"))
    curves = tuple(
        PublishedCurve(
            row["codec"], row["same_as"], row["protocol"], row["source"], tuple(row["bpp"]),
            {metric: tuple(scores) for metric, scores in row["metrics"].items()},
        )
        for row in record["curves"]
    )  # fmt: skip
    return Published(record["images"]["name"], record["images"]["pixels_digest"], curves)


def curves_for(pixels_digest: str) -> tuple[PublishedCurve, ...]:
    """The curves, if these are the images that they are about; else none, for curves of other images compare with nothing."""
    found = published()
    return found.curves if found.pixels_digest == pixels_digest else ()
