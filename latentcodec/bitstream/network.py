"""Small networks that give the same integers on every machine.

Weights and inputs are integers, and so is what is in between: a sum may be calculated in floating point, in whatever
order, as long as no number in it is beyond those that the type holds exactly. Divisions are by powers of two, which
lose nothing until the one rounding that is meant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int8, Int16, Int32, Int64

from latentcodec.bitstream.integers import LOG_UNIT

_COLUMNS = 2048
"""Positions that are calculated at a time, so that what is in between stays in a core's cache."""


@dataclass(frozen=True)
class Precision:
    """How a network calculates."""

    dtype: type[np.floating[Any]]
    exact: int
    """Integers up to here are held exactly."""
    coarser: int
    """Inputs and hidden values count 2^coarser / LOG_UNIT of a spread or an octave."""
    limit: int
    """Inputs are clipped to -limit ... limit."""
    hidden_limit: int
    """Hidden values are clipped to 0 ... hidden_limit."""
    fixed_shift: int | None = None
    """Weights of all layers count 2^-fixed_shift; None: each unit has its own, as fine as its largest sum allows."""

    @property
    def unit(self) -> int:
        """Parts of a spread or an octave."""
        return LOG_UNIT >> self.coarser


DOUBLE = Precision(np.float64, 2**53, 0, 2**15, 2**20, fixed_shift=12)
SINGLE = Precision(np.float32, 2**24, 3, 2**11, 2**11)
"""Takes half the time. 16 spreads or octaves are within the limit, and 1/128 of one is far less than can be predicted."""


@dataclass(frozen=True, eq=False)
class Network:
    """inputs -> hidden -> hidden -> 2, with ReLU, and a linear path beside. As it is stored, but for `precision`."""

    first: Int16[np.ndarray, "inputs hidden"]
    first_bias: Int32[np.ndarray, " hidden"]
    first_shift: Int8[np.ndarray, " hidden"]
    """Of each unit: its weights count 2^-shift, its bias 2^-shift / unit."""
    second: Int16[np.ndarray, "hidden hidden2"]
    second_bias: Int32[np.ndarray, " hidden2"]
    second_shift: Int8[np.ndarray, " hidden2"]
    last: Int16[np.ndarray, "hidden2 2"]
    linear: Int16[np.ndarray, "inputs 2"]
    last_bias: Int32[np.ndarray, " 2"]
    last_shift: Int8[np.ndarray, " 2"]
    """Of both paths to an output."""
    precision: Precision

    @classmethod
    def stored(cls, precision: Precision) -> tuple[str, ...]:
        """Names of the arrays in a model's file."""
        names = [part.name for part in fields(cls) if part.name != "precision"]
        return tuple(name for name in names if precision.fixed_shift is None or not name.endswith("_shift"))

    @classmethod
    def from_stored(cls, arrays: Mapping[str, np.ndarray], precision: Precision) -> "Network":
        """From the arrays of a model's file."""
        shifts = {
            f"{layer}_shift": np.full(len(arrays[f"{layer}_bias"]), precision.fixed_shift, np.int8)
            for layer in ("first", "second", "last")
            if precision.fixed_shift is not None
        }
        return cls(**arrays, **shifts, precision=precision)

    def largest_sums(self) -> dict[str, int]:
        """What the sums of each layer may reach at most, whatever the inputs; it must be below `precision.exact`."""
        limit, hidden = self.precision.limit, self.precision.hidden_limit
        return {
            "first": _largest(self.first, limit, self.first_bias),
            "second": _largest(self.second, hidden, self.second_bias),
            "last": _largest(np.concatenate([self.last, self.linear]), max(limit, hidden), self.last_bias),
        }

    def __call__(self, inputs: Float[np.ndarray, "rows n"]) -> Int64[np.ndarray, "2 n"]:
        """Both outputs, in units of 1 / LOG_UNIT.

        Args:
            inputs: integers in -limit ... limit, and a row of ones.
        """
        parts = [self._outputs(inputs[:, start : start + _COLUMNS]) for start in range(0, inputs.shape[1], _COLUMNS)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _outputs(self, inputs: Float[np.ndarray, "rows n"]) -> Int64[np.ndarray, "2 n"]:
        first, second, last = self._layers
        sums = first @ inputs
        hidden = self._activated(second @ self._activated(sums[:-2]))
        return np.floor(last @ hidden + sums[-2:]).astype(np.int64)

    def _activated(self, sums: Float[np.ndarray, "units n"]) -> Float[np.ndarray, "units n"]:
        """In the memory of `sums`."""
        np.floor(sums, out=sums)
        return np.clip(sums, 0, self.precision.hidden_limit, out=sums)

    @cached_property
    def _layers(self) -> tuple[Float[np.ndarray, "_ _"], Float[np.ndarray, "_ _"], Float[np.ndarray, "_ _"]]:
        """Three matrices. A layer's last column is its bias; to give the next layer a row of ones, it has a unit that
        looks at nothing else. Below the first one is the linear path, which looks at the same inputs."""
        out = 2**self.precision.coarser
        linear = _scaled(self.linear, self.last_bias, self.last_shift) * out
        last = _scaled(self.last, np.zeros_like(self.last_bias), self.last_shift) * out
        layers = (
            np.concatenate([_with_ones(_scaled(self.first, self.first_bias, self.first_shift)), linear]),
            _with_ones(_scaled(self.second, self.second_bias, self.second_shift)),
            last,
        )
        first, second, third = (np.ascontiguousarray(layer, self.precision.dtype) for layer in layers)
        return first, second, third


def _scaled(
    weights: Int16[np.ndarray, "inputs units"], bias: Int32[np.ndarray, " units"], shift: Int8[np.ndarray, " units"]
) -> Float[np.ndarray, "units columns"]:
    """As rows of a matrix, the bias behind."""
    return np.concatenate([weights, bias[None]]).T * 0.5 ** shift[:, None].astype(np.float64)


def _with_ones(layer: Float[np.ndarray, "units inputs"]) -> Float[np.ndarray, "units1 inputs"]:
    ones = np.zeros((1, layer.shape[1]))
    ones[0, -1] = 1
    return np.concatenate([layer, ones])


def _largest(weights: Int16[np.ndarray, "inputs units"], limit: int, bias: Int32[np.ndarray, " units"]) -> int:
    reach = np.abs(weights.astype(np.int64)).sum(axis=0) * limit + np.abs(bias.astype(np.int64))
    return int(reach.max())


_LARGEST_WEIGHT = 2**15 - 1
_FINEST = 14


def rounded(parts: Mapping[str, Float64[np.ndarray, "..."]], precision: Precision) -> Network:
    """A network of integers from one in floating point.

    Args:
        parts: `first.weight` [inputs, hidden], `first.bias`, the same of `second` and `last`, `linear.weight`; values count
            in spreads or octaves.
        precision: one without a fixed shift.
    """
    limit, hidden = precision.limit, precision.hidden_limit
    found: dict[str, np.ndarray] = {}
    for layer, paths in {
        "first": {"first": limit},
        "second": {"second": hidden},
        "last": {"last": hidden, "linear": limit},
    }.items():
        bias = parts[f"{layer}.bias"] * precision.unit
        weights = {name: parts[f"{name}.weight"] for name in paths}
        shift = _finest([(weights[name], paths[name]) for name in paths], bias, precision.exact)
        found |= {name: np.rint(value * 2.0**shift).astype(np.int16) for name, value in weights.items()}
        found |= {f"{layer}_bias": np.rint(bias * 2.0**shift).astype(np.int32), f"{layer}_shift": shift.astype(np.int8)}
    return Network(**found, precision=precision)


def _finest(
    paths: list[tuple[Float64[np.ndarray, "_ units"], int]], bias: Float64[np.ndarray, " units"], exact: int
) -> Float64[np.ndarray, " units"]:
    """Of each unit: the largest shift with which neither a weight nor a sum is too large."""
    reach = np.abs(bias) + sum(np.abs(weights).sum(axis=0) * limit for weights, limit in paths)
    # Rounding adds up to half a step to each weight and to the bias.
    rounding = 0.5 + sum(0.5 * len(weights) * limit for weights, limit in paths)
    largest = np.max([np.abs(weights).max(axis=0, initial=0) for weights, _ in paths], axis=0)
    by_sum = (exact - 1 - rounding) / np.maximum(reach, 1e-9)
    by_size = _LARGEST_WEIGHT / np.maximum(largest, 1e-9)
    return np.minimum(_FINEST, np.floor(np.log2(np.minimum(by_sum, by_size))))
