"""Random numbers and directions that are the same bits on every machine and with every numpy.

Only raw Philox output (which numpy promises to keep) and arithmetic that IEEE 754 rounds exactly (+ - * / sqrt, element
by element) are used for synthetic images: sine, FFT and float sums differ in the last bit between processors.
"""

import numpy as np
from jaxtyping import Float32, Int64, UInt8


class Draws:
    """Random arrays, a pure function of (seed, index) and of the calls made before."""

    def __init__(self, seed: int, index: int) -> None:
        self._bits = np.random.Philox(key=np.array([seed, index], dtype=np.uint64))

    def uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> Float32[np.ndarray, " {count}"]:
        """``count`` numbers in [low, high)."""
        numbers = (self._bits.random_raw(count) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
        return numbers * np.float32(high - low) + np.float32(low)

    def integers(self, count: int, high: int) -> Int64[np.ndarray, " {count}"]:
        """``count`` integers in 0 ... high-1."""
        return (self._bits.random_raw(count) % np.uint64(high)).astype(np.int64)

    def number(self, low: float = 0.0, high: float = 1.0) -> float:
        return float(self.uniform(1, low, high)[0])

    def integer(self, high: int) -> int:
        return int(self.integers(1, high)[0])

    def octets(self, *shape: int) -> UInt8[np.ndarray, "..."]:
        """Random bytes of a shape, 8 to a raw number."""
        size = int(np.prod(shape))
        return self._bits.random_raw(-(-size // 8)).astype("<u8").view(np.uint8)[:size].reshape(shape)

    def directions(self, count: int) -> tuple[Float32[np.ndarray, " {count}"], Float32[np.ndarray, " {count}"]]:
        """Unit vectors (x, y) all around, by the rational parametrisation of the circle: no sine needed."""
        t = self.uniform(count, -1.0, 1.0)
        square, sign = t * t, np.where(self.uniform(count) < 0.5, np.float32(-1), np.float32(1))
        return sign * (1 - square) / (1 + square), sign * 2 * t / (1 + square)
