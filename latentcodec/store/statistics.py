"""Statistics of stored latents: measured batch by batch in float64, merged exactly, in an order that never changes."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from latentcodec.store.manifest import Statistics
from latentcodec.store.settings import ValuesKind
from latentcodec.vae.calibration import RunningStatistics


def measured(values: Float[Tensor, "rows stored height width"], kind: ValuesKind) -> Statistics:
    """Of one batch, as it is stored."""
    if kind == "mean":
        return _statistics(RunningStatistics.of(values), None)
    mean, logvar = values.to(torch.float64).chunk(2, dim=1)
    return _statistics(RunningStatistics.of(mean), RunningStatistics.of(logvar.exp()))


def merged(parts: Iterable[Statistics | None]) -> Statistics | None:
    """Of all parts together, taken in this order; None if there are none. A part may be None, of no rows."""
    total: tuple[RunningStatistics, RunningStatistics | None] | None = None
    for part in parts:
        if part is None:
            continue
        one = _running(part)
        if total is None:
            total = one
        else:
            variance = None if total[1] is None or one[1] is None else total[1].merge(one[1])
            total = total[0].merge(one[0]), variance
    return None if total is None else _statistics(*total)


def _statistics(mean: RunningStatistics, variance: RunningStatistics | None) -> Statistics:
    return Statistics(
        mean.count, mean.mean.tolist(), mean.squares.tolist(), None if variance is None else variance.mean.tolist()
    )


def _running(statistics: Statistics) -> tuple[RunningStatistics, RunningStatistics | None]:
    mean = RunningStatistics(statistics.count, _tensor(statistics.mean), _tensor(statistics.squares))
    if statistics.variance is None:
        return mean, None
    # of the variances only the mean is kept
    return mean, RunningStatistics(
        statistics.count, _tensor(statistics.variance), torch.zeros_like(_tensor(statistics.variance))
    )


def _tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
