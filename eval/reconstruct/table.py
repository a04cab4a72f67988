"""The figures as text: a block for each metric, then differences, the worst images, and apart from it all what others report."""

import math
from collections.abc import Iterator, Sequence

from eval.bootstrap import Interval
from eval.metrics import LOWER_IS_BETTER
from eval.reconstruct.published import PublishedTable
from eval.reconstruct.summary import Difference, Summary, ranking, worst_first
from eval.rows import ImageRow

UNITS = {"psnr": "dB"}
DIGITS = {"psnr": 2, "rfid": 3, "kid": 6}
USUAL_DIGITS = 4
"""After the point, of metrics that are not in `DIGITS`."""
_CELL = 30


def metric_blocks(summaries: Sequence[Summary], metrics: Sequence[str], found: Sequence[Difference]) -> Iterator[str]:
    """Lines: for each metric the VAEs, best first in the first mode, a column for each mode; then their differences."""
    settings = list(dict.fromkeys(summary.setting for summary in summaries))
    by_key = {(summary.codec, summary.setting): summary for summary in summaries}
    names = [summary.codec for summary in summaries] + [_pair(difference) for difference in found]
    width = max(map(len, names)) + 4
    for metric in metrics:
        better = "lower" if metric in LOWER_IS_BETTER else "higher"
        unit = f"{UNITS[metric]}, " if metric in UNITS else ""
        title = f"{metric} ({unit}{better} is better)"
        yield ""
        yield f"{title:{width}}" + "".join(f"{setting:>{_CELL}}" for setting in settings)
        for codec in ranking(summaries, metric, settings[0]):
            cells = [_figure(by_key[codec, setting], metric) for setting in settings]
            yield f"  {codec:{width - 2}}" + "".join(f"{cell:>{_CELL}}" for cell in cells)
        pairs: dict[str, dict[str, Interval]] = {}
        for difference in found:
            if difference.metric == metric:
                pairs.setdefault(_pair(difference), {})[difference.setting] = difference.interval
        for pair, intervals in pairs.items():
            cells = [with_interval(intervals[setting], metric, sign="+") for setting in settings]
            yield f"  {pair:{width - 2}}" + "".join(f"{cell:>{_CELL}}" for cell in cells)


def worst_lines(rows: Sequence[ImageRow], metric: str, count: int) -> Iterator[str]:
    """Lines: the `count` worst images of each VAE and mode, by one metric."""
    shown: dict[tuple[str, str], list[ImageRow]] = {}
    for row in worst_first(rows, metric):
        shown.setdefault((row.codec, row.setting), []).append(row)
    for (codec, setting), group in shown.items():
        scored = [row for row in group if metric in row.metrics][:count]
        if scored:
            yield f"  {codec}, {setting}: " + ", ".join(
                f"{row.image} {number(row.metrics[metric], metric)}" for row in scored
            )


def published_lines(tables: Sequence[PublishedTable]) -> Iterator[str]:
    """Lines: each table of others under its protocol and source."""
    for table in tables:
        yield f"  {table.protocol}"
        yield f"  source: {table.source}"
        for row in table.rows:
            figures = ", ".join(f"{name} {value:g}" for name, value in row.metrics.items())
            yield f"    {row.model}: {figures}"


def with_interval(interval: Interval, metric: str, sign: str = "") -> str:
    """`24.31 [23.90, 24.80]`."""
    mean, low, high = (number(value, metric, sign) for value in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def number(value: float, metric: str, sign: str = "") -> str:
    """A figure with the digits that its metric deserves."""
    return f"{value:{sign}.{DIGITS.get(metric, USUAL_DIGITS)}f}" if math.isfinite(value) else f"{value:{sign}}"


def _figure(summary: Summary, metric: str) -> str:
    if metric == "rfid":
        return "" if summary.rfid is None else number(summary.rfid, metric)
    if metric == "kid":
        kid = summary.kid
        return "" if kid is None else f"{number(kid.mean, metric)} (std {number(kid.std, metric)})"
    interval = summary.metrics[metric]
    of = "" if interval.images == summary.images else f" of {interval.images}"
    return with_interval(interval, metric) + of


def _pair(difference: Difference) -> str:
    return f"{difference.codec} - {difference.baseline}"
