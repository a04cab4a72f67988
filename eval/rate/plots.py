"""Rate-distortion plots: a file pair RD-METRIC.png and .svg for each metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from eval.metrics import LOWER_IS_BETTER
from eval.rate.curves import Curve
from eval.rate.published import PublishedCurve
from eval.reconstruct.table import UNITS
from latentcodec.aside import written_aside

_MARGIN = 1.15
"""Of the rates on both sides, as a factor."""
_MARKERS = "osD^vPX*<>"


@dataclass(frozen=True)
class Plot:
    """What is drawn for one metric."""

    metric: str
    curves: Mapping[str, Curve]
    """Measured: solid."""
    ceilings: Mapping[str, float]
    """Scores of codecs without files: dotted lines across."""
    published: Sequence[PublishedCurve]
    """Of the same images: dashed and grey."""
    title: str


def draw(plot: Plot, folder: Path) -> list[Path]:
    """Write the plot; returns its files."""
    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    _curves(axes, plot)
    _frame(axes, plot)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    paths = []
    # The same figures give the same file: no date, no random ids in the SVG.
    with mpl.rc_context({"svg.hashsalt": "latentcodec", "svg.fonttype": "none"}):
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            path = folder / f"rd-{plot.metric}.{kind}"
            with written_aside(path) as aside:
                figure.savefig(aside, format=kind, metadata=metadata)
            paths.append(path)
    return paths


def _curves(axes: Axes, plot: Plot) -> None:
    colours = mpl.colormaps["tab10"]
    for place, (codec, curve) in enumerate(plot.curves.items()):
        axes.plot(
            curve.rates, curve.scores, "-", marker=_MARKERS[place % len(_MARKERS)], markersize=4,
            color=colours(place % 10), label=codec,
        )  # fmt: skip
    for place, (codec, score) in enumerate(plot.ceilings.items()):
        axes.axhline(score, linestyle=":", color="black", alpha=1 / (1 + place / 2), label=f"{codec}, not quantised")
    greys = [str(0.35 + 0.4 * place / max(1, len(plot.published) - 1)) for place in range(len(plot.published))]
    for place, (other, grey) in enumerate(zip(plot.published, greys, strict=True)):
        found = other.curve(plot.metric)
        if found is not None:
            axes.plot(
                found.rates, found.scores, "--", linewidth=1, marker=_MARKERS[place % len(_MARKERS)], markersize=3,
                markerfacecolor="none", color=grey, label=f"{other.codec} (published)",
            )  # fmt: skip


def _frame(axes: Axes, plot: Plot) -> None:
    """Logarithmic rates; as much of both as the measured curves and ceilings fill, with room around."""
    unit = f", {UNITS[plot.metric]}" if plot.metric in UNITS else ""
    better = "lower" if plot.metric in LOWER_IS_BETTER else "higher"
    axes.set(
        title=plot.title, xlabel="bits per pixel (whole files)", ylabel=f"{plot.metric}{unit} ({better} is better)"
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, which="major", alpha=0.3)
    rates = [rate for curve in plot.curves.values() for rate in curve.rates]
    if not rates:
        return
    low, high = min(rates) / _MARGIN, max(rates) * _MARGIN
    axes.set_xlim(low, high)
    others = [found for other in plot.published if (found := other.curve(plot.metric)) is not None]
    shown = [
        score
        for curve in (*plot.curves.values(), *others)
        for rate, score in zip(curve.rates, curve.scores, strict=True)
        if low <= rate <= high
    ]
    shown += plot.ceilings.values()
    room = 0.04 * (max(shown) - min(shown)) or 0.01
    axes.set_ylim(min(shown) - room, max(shown) + room)
