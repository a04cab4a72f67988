"""How far long work is: a bar on a terminal, a line now and then in a log."""

import sys
import time

from tqdm import tqdm

_LINE_SECONDS = 30.0


class Progress:
    """Images done of those to do, images a second, time left. A context manager.

    Args:
        total: images to do.
        shown: False says nothing at all: of several processes one is enough.
    """

    def __init__(self, total: int, *, shown: bool = True) -> None:
        self._total = total
        self._terminal = sys.stderr.isatty()
        self._lines = shown and not self._terminal
        self._bar = tqdm(total=total, unit="image", disable=not (shown and self._terminal))
        self._began = self._told = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self, done: int) -> None:
        """So many are done, of all processes together."""
        done = min(done, self._total)
        self._bar.update(done - self._bar.n if done > self._bar.n else 0)
        now = time.monotonic()
        if self._lines and done and now - self._told >= _LINE_SECONDS:
            self._told = now
            print(progress_line(done, self._total, now - self._began), file=sys.stderr, flush=True)


def progress_line(done: int, total: int, seconds: float) -> str:
    """For a log."""
    left = tqdm.format_interval((total - done) * seconds / done)
    return f"{done:,} of {total:,} images ({done / total:.0%}), {done / seconds:.1f} images/s, {left} left"
