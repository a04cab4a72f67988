"""Times of two ways to do one thing, taken in turns: a machine whose speed drifts slows both alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import torch

T = TypeVar("T")
Work = Callable[[], object]


@dataclass(frozen=True)
class Paired:
    """Seconds of both sides in each round, one call each."""

    ours: tuple[float, ...]
    other: tuple[float, ...]

    def ratio(self) -> "Spread":
        """Our time over the other's, round by round: below 1 we are faster."""
        return Spread.of([mine / its for mine, its in zip(self.ours, self.other, strict=True)])


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a figure over the rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least two values."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))

    def as_dict(self) -> dict[str, float]:
        """`median`, `low` and `high` (the quartiles), `rounds`."""
        return asdict(self)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Work, device: torch.device) -> float:
    """Seconds of one call, with what it left running on the device."""
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


def timed_result(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """What one call gives, and its seconds."""
    results: list[T] = []
    seconds = timed(lambda: results.append(work()), device)
    return results[0], seconds


def paired(ours: Work, other: Work, *, rounds: int, device: torch.device, warm_up: int = 2) -> Paired:
    """Time both in turns, after `warm_up` calls of each; who goes first alternates."""
    for side in (ours, other):
        for _ in range(warm_up):
            side()
    times: dict[Work, list[float]] = {ours: [], other: []}
    for number in range(rounds):
        for side in (ours, other) if number % 2 == 0 else (other, ours):
            times[side].append(timed(side, device))
    return Paired(tuple(times[ours]), tuple(times[other]))
