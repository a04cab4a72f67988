"""What a run leaves: the printed tables, the plots, and the results file."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from eval.bootstrap import Bootstrap
from eval.images import ImageSet
from eval.rate.curves import BdRate, Curve, bd_rate, curve_of
from eval.rate.journal import Journal
from eval.rate.plots import Plot, draw
from eval.rate.published import PublishedCurve, curves_for
from eval.rate.sanity import METRIC, Agreement, agreements
from eval.rate.summary import Point, Summary, summarise
from eval.rate.table import agreement_lines, bd_lines, point_lines, published_lines
from eval.results import write_results


@dataclass(frozen=True)
class Findings:
    """Everything that follows from the rows."""

    summary: Summary
    anchors: tuple[str, ...]
    """Whom BD-rates are against; none where no codec writes files."""
    bd_rates: list[BdRate]
    published: tuple[PublishedCurve, ...]
    """Of the same images; empty for others."""
    agreements: list[Agreement]
    notes: list[str]
    """What was left out, and what is to be known."""


def find(
    journal: Journal,
    images: ImageSet,
    ids: Sequence[str],
    metrics: Sequence[str],
    anchors: Sequence[str],
    most_bpp: float | None,
    bootstrap: Bootstrap,
) -> Findings:
    """Sum up the rows about `ids`.

    Args:
        anchors: names of codecs; none: the first that writes files.
        most_bpp: BD-rates once more, of what costs at most so many bits per pixel.
    """
    summary = summarise(journal.rows, ids, bootstrap)
    with_files = list(dict.fromkeys(point.codec for point in summary.points if point.bpp is not None))
    anchors = tuple(anchors) or tuple(with_files[:1])
    limits = [None] if most_bpp is None else [None, most_bpp]
    others = curves_for(images.pixels_digest)
    kinds = {name: identity["kind"] for name, identity in journal.codecs.items()}
    return Findings(
        summary, anchors, list(_bd_rates(summary.points, with_files, anchors, metrics, limits)), others,
        agreements(measured_curves(summary.points, METRIC), kinds, others),
        list(_notes(summary, images, len(ids), journal.settings["jobs"])),
    )  # fmt: skip


def measured_curves(points: Sequence[Point], metric: str) -> dict[str, Curve]:
    """{codec: curve}, of codecs that write files and were measured with this metric."""
    found: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        if point.bpp is not None and metric in point.metrics:
            found.setdefault(point.codec, []).append((point.bpp.mean, point.metrics[metric].mean))
    return {codec: curve_of(pairs) for codec, pairs in found.items()}


def _bd_rates(
    points: Sequence[Point],
    codecs: Sequence[str],
    anchors: Sequence[str],
    metrics: Sequence[str],
    limits: Sequence[float | None],
) -> Iterator[BdRate]:
    measured = {metric: measured_curves(points, metric) for metric in metrics}
    for limit, anchor, codec, metric in product(limits, anchors, codecs, metrics):
        curves = measured[metric]
        if codec != anchor and codec in curves and anchor in curves:
            yield bd_rate(codec, curves[codec], anchor, curves[anchor], metric, limit)


def _notes(summary: Summary, images: ImageSet, count: int, jobs: int) -> Iterator[str]:
    for id, reason in images.skipped.rows:
        yield f"skipped {id}: {reason}"
    for (codec, setting), measured in summary.incomplete.items():
        yield f"{codec} at {setting} is left out: measured on {measured} of {count} images; ask for it again to complete it"
    for metric, left_out in summary.too_small.items():
        yield f"{metric} leaves out {len(left_out)} images that are too small for it, such as {left_out[0]}"
    if jobs > 1:
        yield f"times are those of a machine that does {jobs} images at once"


def print_findings(found: Findings, metrics: Sequence[str], settings: dict[str, Any]) -> None:
    """The tables. What others have published stands apart."""
    data = settings["data"]
    shapes = [f"{count} of {shape}" for shape, count in data["sizes"].items()]
    print(f"{data['images']} images of {data['name']}: {', '.join(shapes[:3] + ['...'] * (len(shapes) > 3))}")
    print("bpp is of whole files; metrics on 8-bit RGB; means over images, of the seconds the median")
    print("seconds for an image in memory; each codec with as many threads as it takes by itself")
    for net, name in settings["backbones"].items():
        print(f"backbone {net}: {name}")
    print("", *point_lines(found.summary.points, metrics), sep="\n")
    if found.bd_rates:
        print("", *bd_lines(found.bd_rates, metrics), sep="\n")
    if found.agreements:
        print("\nPSNR at equal bits per pixel:", *agreement_lines(found.agreements), sep="\n")
    if found.published:
        print("\nof these images others have published, dashed in plots:", *published_lines(found.published), sep="\n")
    if found.notes:
        print("", *(f"note: {note}" for note in found.notes), sep="\n")


def data_settings(images: ImageSet, journal: Journal, ids: Sequence[str]) -> dict[str, Any]:
    """Which images these are."""
    wanted = set(ids)
    shapes = {row.image: f"{row.width}x{row.height}" for row in journal.rows if row.image in wanted}
    return {
        "name": images.name, "images": len(ids), "skipped": len(images.skipped),
        "sizes": dict(Counter(shapes.values()).most_common()), "digest": images.digest,
        "pixels_digest": images.pixels_digest,
    }  # fmt: skip


def draw_plots(found: Findings, metrics: Sequence[str], title: str, folder: str | Path) -> list[Path]:
    """A plot for each metric; returns the files."""
    written = []
    for metric in metrics:
        ceilings = {
            point.codec: point.metrics[metric].mean
            for point in found.summary.points
            if point.bpp is None and metric in point.metrics
        }
        curves = measured_curves(found.summary.points, metric)
        if curves or ceilings:
            written += draw(Plot(metric, curves, ceilings, found.published, title), Path(folder))
    return written


def save(path: str | Path, settings: dict[str, Any], found: Findings, images: ImageSet, device: torch.device) -> None:
    """Write the results file."""
    write_results(
        path, "rate", settings, [point.as_dict() for point in found.summary.points], device,
        bd_rates=[each.as_dict() for each in found.bd_rates],
        agreements=[each.as_dict() for each in found.agreements],
        skipped=[{"image": id, "reason": reason} for id, reason in images.skipped.rows],
        notes=found.notes,
    )  # fmt: skip
