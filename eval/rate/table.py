"""The figures as text: a block for each codec, BD-rates, agreement with what was published."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from eval.metrics import LOWER_IS_BETTER
from eval.rate.curves import BdRate
from eval.rate.published import PublishedCurve
from eval.rate.sanity import TOLERANCE, Agreement
from eval.rate.summary import Point
from eval.reconstruct.table import UNITS, number

_CELL = 12


def point_lines(points: Sequence[Point], metrics: Sequence[str]) -> Iterator[str]:
    """Lines: for each codec its settings, cheapest first."""
    heads = [
        *(f"{metric} {UNITS[metric]}" if metric in UNITS else metric for metric in metrics),
        "encode s",
        "decode s",
    ]
    yield f"{'setting':>10}{'bpp':>10}" + "".join(f"{head:>{_CELL}}" for head in heads)
    yield f"{'':20}" + "".join(f"{_better(metric):>{_CELL}}" for metric in metrics)
    before = None
    for point in points:
        if point.codec != before:
            yield point.codec
            before = point.codec
        bpp = "no file" if point.bpp is None else f"{point.bpp.mean:.4f}"
        cells = [number(point.metrics[name].mean, name) if name in point.metrics else "" for name in metrics]
        cells += [f"{seconds:.4f}" for seconds in (point.encode_seconds, point.decode_seconds)]
        yield f"{point.setting:>10}{bpp:>10}" + "".join(f"{cell:>{_CELL}}" for cell in cells)


def bd_lines(found: Sequence[BdRate], metrics: Sequence[str]) -> Iterator[str]:
    """Lines: for each anchor and limit a block with a row for each codec and a column for each metric."""
    yield "BD-rate: bits for the same score, below 0: fewer; (overlap) is the share of all scores compared"
    width = max(len(each.codec) for each in found) + 2
    column = max(_CELL, *(len(bd_text(each)) for each in found)) + 2
    for (anchor, most), block in groupby(found, lambda each: (each.anchor, each.most_bpp)):
        cells = {(each.codec, each.metric): bd_text(each) for each in block}
        yield f"against {anchor}" + (f", up to {most:g} bpp" if most is not None else "")
        yield " " * width + "".join(f"{metric:>{column}}" for metric in metrics)
        for codec in dict.fromkeys(codec for codec, _ in cells):
            yield f"{codec:{width}}" + "".join(f"{cells.get((codec, metric), ''):>{column}}" for metric in metrics)


def bd_text(found: BdRate) -> str:
    """`-28.1 % (93 %)`, or why it is undefined."""
    if found.percent is None:
        return f"undefined: {found.undefined}"
    return f"{found.percent:+.1f} % ({found.overlap:.0%})".replace("%)", " %)")


def agreement_lines(found: Sequence[Agreement]) -> Iterator[str]:
    """Lines: measured minus published, in dB."""
    for each in found:
        difference, rate = each.worst
        verdict = "agrees" if each.agrees else f"DIFFERS by more than {TOLERANCE} dB"
        yield (
            f"  {each.codec} minus published {each.published}: mean {each.mean:+.3f} dB, largest {difference:+.3f} dB at "
            f"{rate:.3f} bpp, {len(each.rates)} rates {each.rates[0]:.2f} ... {each.rates[-1]:.2f}: {verdict}"
        )


def published_lines(curves: Sequence[PublishedCurve]) -> Iterator[str]:
    """Lines: which curves there are of these images, and where they are from."""
    for curve in curves:
        yield f"  {curve.codec}: {curve.protocol}; {curve.source}"


def _better(metric: str) -> str:
    return "lower" if metric in LOWER_IS_BETTER else "higher"
