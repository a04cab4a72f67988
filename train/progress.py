"""How far a run is: a bar on a terminal; in a log, where a bar would be a line for every step, a plain line now and then."""

import sys
import time
from typing import Protocol, runtime_checkable

from tqdm.auto import tqdm

LOG_INTERVAL = 30.0
"""Seconds between two lines in a log, at least."""


@runtime_checkable
class Progress(Protocol):
    """The part of tqdm's interface that a run uses."""

    def update(self, n: int = 1) -> object:
        """So many more are done."""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """What stands behind the figures from now on."""

    def write(self, s: str) -> None:
        """A line of text for itself, on standard output."""

    def close(self) -> None:
        """The last state, and the end."""


class ProgressLines:
    """Progress as lines of text on standard error: what a bar says, without the bar."""

    def __init__(self, total: int, initial: int, unit: str, interval: float = LOG_INTERVAL) -> None:
        self._total, self._initial, self._unit, self._interval = total, initial, unit, interval
        self._done = initial
        self._told: int | None = None
        self._beside = ""
        self._began = self._last = time.monotonic()

    def update(self, n: int = 1) -> None:
        """So many more are done; a line if the last is old enough."""
        self._done += n
        if time.monotonic() - self._last >= self._interval:
            self._tell()

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """What stands behind the figures from the next line on."""
        self._beside = s

    def write(self, s: str) -> None:
        """A line of text for itself, on standard output."""
        print(s, flush=True)

    def close(self) -> None:
        """The last state, unless the last line told it."""
        if self._told != self._done:
            self._tell()

    def _tell(self) -> None:
        self._last, self._told = time.monotonic(), self._done
        line = tqdm.format_meter(
            self._done, self._total, self._last - self._began, initial=self._initial, unit=self._unit, postfix=self._beside,
            bar_format="{percentage:3.0f} % {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
        )  # fmt: skip
        print(line, file=sys.stderr, flush=True)


def progress(total: int, initial: int, *, unit: str = "img", shown: bool = True) -> Progress:
    """On standard error: a bar if it is a terminal, else lines; nothing unless `shown`."""
    if shown and not sys.stderr.isatty():
        return ProgressLines(total, initial, unit)
    bar: Progress = tqdm(total=total, initial=initial, unit=unit, disable=not shown, dynamic_ncols=True, smoothing=0.05)
    return bar
