"""From rows of images to points of curves: one for each codec and setting."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eval.bootstrap import Bootstrap, Interval, mean_interval
from eval.reconstruct.summary import scores_of
from eval.rows import ImageRow


@dataclass(frozen=True)
class Point:
    """What one codec reached at one setting."""

    codec: str
    setting: str
    images: int
    bpp: Interval | None
    """Bits per pixel of whole files: the mean over images of each one's own. None for a codec without files."""
    metrics: dict[str, Interval]
    """Means over images."""
    encode_seconds: float
    """For an image; the median."""
    decode_seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "codec": self.codec, "setting": self.setting, "images": self.images,
            "bpp": None if self.bpp is None else self.bpp.as_dict(),
            "metrics": {name: interval.as_dict() for name, interval in self.metrics.items()},
            "encode_seconds": self.encode_seconds, "decode_seconds": self.decode_seconds,
        }  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """The points of a run."""

    points: list[Point]
    """Codec by codec, cheapest first."""
    incomplete: dict[tuple[str, str], int]
    """(codec, setting) -> images, of what was not measured on all of them and is therefore no point."""
    too_small: dict[str, list[str]]
    """Metric -> images that are too small for it."""


def summarise(rows: Sequence[ImageRow], images: Iterable[str], bootstrap: Bootstrap) -> Summary:
    """Points over `images`; rows of other images play no part.

    A metric that cannot take some images is a mean over the others; which these are is the same for every codec.
    """
    wanted = set(images)
    groups: dict[tuple[str, str], list[ImageRow]] = {}
    for row in rows:
        if row.image in wanted:
            groups.setdefault((row.codec, row.setting), []).append(row)
    incomplete = {key: len(group) for key, group in groups.items() if len(group) < len(wanted)}
    points = [_point(group, bootstrap) for key, group in groups.items() if key not in incomplete]
    order = {codec: place for place, codec in enumerate(dict.fromkeys(point.codec for point in points))}
    points.sort(key=lambda point: (order[point.codec], point.bpp.mean if point.bpp else 0.0))
    return Summary(points, incomplete, _too_small([row for group in groups.values() for row in group]))


def bits_per_pixel(row: ImageRow) -> float | None:
    """Of the whole file; None where there is none."""
    return None if row.bytes is None else 8 * row.bytes / (row.width * row.height)


def _point(group: Sequence[ImageRow], bootstrap: Bootstrap) -> Point:
    (scores,) = scores_of(group).values()
    rates = {row.image: rate for row in group if (rate := bits_per_pixel(row)) is not None}
    return Point(
        group[0].codec, group[0].setting, len(group),
        mean_interval(rates, bootstrap) if rates else None,
        {metric: mean_interval(of_image, bootstrap) for metric, of_image in scores.items()},
        statistics.median(row.encode_seconds or 0.0 for row in group),
        statistics.median(row.decode_seconds or 0.0 for row in group),
    )  # fmt: skip


def _too_small(rows: Iterable[ImageRow]) -> dict[str, list[str]]:
    by_image: dict[str, set[str]] = {}
    for row in rows:
        by_image.setdefault(row.image, set()).update(row.metrics)
    every = sorted(set().union(*by_image.values()))
    found = {metric: [image for image, has in by_image.items() if metric not in has] for metric in every}
    return {metric: images for metric, images in found.items() if images}
