"""Signals of a run's health: averages between two log lines, non-finite losses, and warnings in words."""

from collections import deque
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from train.step import Scalars

_WON_ACCURACY = 0.97
_WON_LINES = 3


class NonFiniteLossError(RuntimeError):
    """A loss or a gradient became NaN or infinite; the message names step, value and images."""


@dataclass
class _Step:
    step: int
    loss: Tensor
    ids: list[str]


class Meter:
    """Collects scalars on the device without waiting for it, and averages them over steps, micro-batches and processes."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._steps: list[_Step] = []

    def add(self, scalars: Scalars) -> None:
        """Add one micro-batch's detached scalars."""
        for name, value in scalars.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def add_loss(self, step: int, loss: Tensor, ids: list[str]) -> None:
        """Remember a loss and its images until `check_finite` has looked at it."""
        self._steps.append(_Step(step, loss.detach(), ids))

    def check_finite(self, accelerator: Accelerator) -> None:
        """Raise NonFiniteLossError on every process when any loss since the last call was not finite on any of them."""
        bad: list[tuple[int, float, list[str]]] = []
        if self._steps:
            finite = torch.isfinite(torch.stack([entry.loss for entry in self._steps])).tolist()
            bad = [
                (entry.step, float(entry.loss), entry.ids)
                for entry, good in zip(self._steps, finite, strict=True)
                if not good
            ]
        self._steps.clear()
        everywhere: list[tuple[int, float, list[str]]] = gather_object(bad[:1])
        if everywhere:
            step, value, ids = min(everywhere)
            raise NonFiniteLossError(
                f"the loss became {value} at step {step} on the images {', '.join(ids[:8])}"
                f"{f' and {len(ids) - 8} more' if len(ids) > 8 else ''}. No checkpoint was written since; "
                "look at these images, lower optimizer.lr, or set mixed_precision to no, and run the same command again"
            )

    def averages(self, accelerator: Accelerator) -> dict[str, float]:
        """Means since the last call, over all processes; clears them."""
        names = sorted(self._sums)
        if not names:
            return {}
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        means = accelerator.reduce(means, reduction="mean")
        self._sums.clear()
        self._counts.clear()
        return dict(zip(names, means.tolist(), strict=True))


class Watch:
    """Turns log lines into warnings in words, each said once until its cause has gone."""

    def __init__(self, latent_channels: int) -> None:
        self.latent_channels = latent_channels
        self._accuracies: deque[float] = deque(maxlen=_WON_LINES)
        self._said: set[str] = set()

    def look(self, averages: dict[str, float]) -> list[str]:
        """Warnings for one log line."""
        warnings = {}
        if "accuracy_real" in averages:
            self._accuracies.append(min(averages["accuracy_real"], averages["accuracy_fake"]))
            if len(self._accuracies) == _WON_LINES and min(self._accuracies) > _WON_ACCURACY:
                warnings["discriminator"] = (
                    f"the discriminator has won: it tells at least {min(self._accuracies):.0%} of real and fake patches apart, "
                    "so its gradient carries little. Try adversarial.lecam 0.001, a lower optimizer.discriminator_lr, "
                    "or a narrower adversarial.width"
                )
        active = averages.get("active_channels", self.latent_channels)
        if active < 0.75 * self.latent_channels or averages.get("posterior_std", 0.0) > 0.5:
            warnings["posterior"] = (
                f"the posterior is collapsing: {active:.1f} of {self.latent_channels} channels carry information, "
                f"mean posterior std {averages.get('posterior_std', 0.0):.3f}. Lower loss.weights.kl"
            )
        new = [text for cause, text in warnings.items() if cause not in self._said]
        self._said = set(warnings)
        return new
