"""The loop of any training run, top to bottom: updates, log lines, validations, checkpoints. Counted in updates."""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from accelerate import Accelerator
from accelerate.utils import gather_object

from train.health import Meter
from train.report import Report
from train.run_config import RunConfig
from train.state import TrainState, save_checkpoint


@dataclass
class Updated:
    """What one update leaves besides new weights."""

    lr: float
    broken: list[tuple[str, str]] = field(default_factory=list)
    """(id, reason) of images that could not be read on the way."""


@runtime_checkable
class Job(Protocol):
    """What differs from one kind of run to another."""

    validate_every: int
    """Steps between validations; there is one before the first step and one after the last."""

    def update(self, step: int, meter: Meter) -> Updated:
        """Make update number `step` (from 0), set the state's step to the next, and tell the meter what it saw."""

    def warnings(self, averages: dict[str, float]) -> list[str]:
        """Sentences about a run whose log line says this."""

    def validate(self, step: int, report: Report) -> None:
        """Measure the averaged weights after `step` updates, and report it."""

    def record(self) -> dict[str, Any]:
        """What a checkpoint holds besides the state, `config` among it; JSON."""


class StopRequest:
    """SIGTERM (a cluster taking the node back) or the end of `max_minutes`: stop after a step, with a checkpoint."""

    def __init__(self, accelerator: Accelerator, max_minutes: float | None) -> None:
        self._accelerator = accelerator
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes else float("inf")
        self._signalled = False
        self._previous = signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def agreed(self, step: int, every: int) -> bool:
        """Whether any process was asked to stop. With several processes they ask each other every `every` steps only."""
        mine = self._signalled or time.monotonic() >= self._deadline
        if self._accelerator.num_processes == 1:
            return mine
        return step % every == 0 and any(gather_object([mine]))

    def close(self) -> None:
        """Give SIGTERM back to its previous handler."""
        signal.signal(signal.SIGTERM, self._previous)


def drive(config: RunConfig, accelerator: Accelerator, state: TrainState, job: Job, *, shown: Sequence[str]) -> None:
    """Make the updates that `state` has not had yet.

    Args:
        shown: names of averages that stand beside the progress bar.

    Raises:
        CheckpointError: one could not be written.
        NonFiniteLossError: no checkpoint was written since the last whole one.
    """
    start = state.step
    report = Report(config, accelerator, start, shown)
    stop = StopRequest(accelerator, config.max_minutes)
    meter = Meter()
    broken: list[tuple[str, str]] = []
    images_since, seconds_since = 0, 0.0

    def checkpoint() -> None:
        meter.check_finite(accelerator)
        if accelerator.is_main_process:
            save_checkpoint(state, report.folder / "checkpoints", record=job.record(), keep=config.keep_checkpoints)
        accelerator.wait_for_everyone()

    try:
        if start == 0:
            job.validate(0, report)
        for step in range(start, config.steps):
            clock = time.perf_counter()
            updated = job.update(step, meter)
            broken += updated.broken
            done, last = step + 1, step + 1 == config.steps
            report.advance(config.batch_size)
            images_since, seconds_since = images_since + config.batch_size, seconds_since + time.perf_counter() - clock
            if done % config.log_every == 0 or last:
                meter.check_finite(accelerator)
                averages = meter.averages(accelerator) | {
                    "lr": updated.lr,
                    "images_per_second": images_since / seconds_since,
                }
                report.log("train", done, averages)
                report.skipped(gather_object(broken))
                for warning in job.warnings(averages):
                    report.say(f"step {done}: {warning}")
                broken, images_since, seconds_since = [], 0, 0.0
            stopping = not last and stop.agreed(done, config.log_every)
            if done % job.validate_every == 0 or last:
                job.validate(done, report)
            if done % config.checkpoint_every == 0 or last or stopping:
                checkpoint()
            if stopping:
                report.say(f"stopped after step {done} of {config.steps}; the same command goes on")
                break
    finally:
        stop.close()
        report.close()
