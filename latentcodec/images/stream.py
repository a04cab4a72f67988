"""A deterministic shuffle for data that only comes in order."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def shuffled(items: Iterable[T], size: int, *, seed: int, epoch: int = 0) -> Iterator[T]:
    """Shuffles through a buffer: each step hands out a random element of it and puts the next one in its place.

    The order is a pure function of ``size``, ``seed``, ``epoch`` and the number of items, on any machine. An element
    comes at most ``size - 1`` places early, on average about ``size`` late. ``size`` 0 or 1 leaves the order alone.

    Raises:
        ValueError: ``size`` or ``seed`` below 0.
    """
    if size < 0 or seed < 0:
        raise ValueError(f"shuffle: expected size and seed of at least 0, found size {size}, seed {seed}")
    # random_raw, since numpy promises the same raw numbers for ever, but not the same `integers`
    numbers = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))
    buffer: list[T] = []
    for item in items:
        if size == 0:
            yield item
            continue
        if len(buffer) < size:
            buffer.append(item)
            continue
        place = int(numbers.random_raw()) % size
        yield buffer[place]
        buffer[place] = item
    while buffer:
        place = int(numbers.random_raw()) % len(buffer)
        buffer[place], buffer[-1] = buffer[-1], buffer[place]
        yield buffer.pop()
