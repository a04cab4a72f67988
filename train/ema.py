"""Exponential moving average of the weights, as a network of its own: validation and export use it directly."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """`model` is an fp32 copy whose parameters follow those of `source`.

    The decay is min(decay, (1 + step) / (10 + step)), so that early averages forget the random start
    (the warm-up of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, source: M, decay: float) -> None:
        self.decay = decay
        self.model: M = copy.deepcopy(source).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, source: M, step: int) -> None:
        """Move the average towards `source`, which has made `step` updates."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = [average.detach() for average in self.model.parameters()]
        torch._foreach_lerp_(averages, [value.detach() for value in source.parameters()], 1 - decay)
