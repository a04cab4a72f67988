"""The training loop, top to bottom. Progress is counted in generator updates."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from latentcodec.images.pixels import normalize
from train.config import TrainConfig
from train.data import Batch, training_loader
from train.health import Meter, Watch
from train.report import Report
from train.run import Run, build_run, make_accelerator
from train.schedule import StepPlan, plan_step
from train.state import save_checkpoint
from train.validation import Validation


def train_step(run: Run, batches: Iterator[Batch], plan: StepPlan, meter: Meter) -> list[tuple[str, str]]:
    """One update of each side from `accumulate` micro-batches; returns the broken images met on the way.

    The discriminator learns from the same reconstructions, detached, that the generator was just scored on.
    """
    accelerator, config = run.accelerator, run.config
    sides = [side for side in (run.generator, run.discriminator) if side is not None]
    clip = config.optimizer.clip or float("inf")
    _set_lr(run, plan)
    broken = []
    for _ in range(config.accumulate):
        batch = next(batches).to(accelerator.device)
        broken += batch.broken
        images = normalize(batch.images)
        if config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with accelerator.accumulate(*sides):
            output = run.generator(images, batch.noise, plan)
            accelerator.backward(output.loss)
            if accelerator.sync_gradients:
                meter.add({"gradient_norm": accelerator.clip_grad_norm_(run.generator.parameters(), clip)})
            run.generator_optimizer.step()
            run.generator_optimizer.zero_grad()
            meter.add({"loss": output.loss, **output.scalars})
            meter.add_loss(plan.step, output.loss, batch.ids)
            if plan.train_discriminator and run.discriminator is not None and run.discriminator_optimizer is not None:
                loss, scalars = run.discriminator(output.targets, output.reconstructions, plan)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(run.discriminator.parameters(), clip)
                    meter.add({"discriminator_gradient_norm": norm})
                run.discriminator_optimizer.step()
                run.discriminator_optimizer.zero_grad()
                meter.add(scalars)
                meter.add_loss(plan.step, loss, batch.ids)
    run.ema.update(run.vae, plan.step)
    run.state.step = plan.step + 1
    return broken


def _set_lr(run: Run, plan: StepPlan) -> None:
    rates = ((run.generator_optimizer, plan.vae_lr), (run.discriminator_optimizer, plan.discriminator_lr))
    for optimizer, rate in rates:
        if optimizer is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate


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


def train(config: TrainConfig) -> Path:
    """Train as `config` says, resuming where `config.out` left off; returns the run's folder.

    Raises ConfigError, CheckpointError, NonFiniteLossError; a run that was stopped goes on with the same call.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    accelerator = make_accelerator(config)
    run = build_run(config, accelerator)
    start = run.state.step
    report = Report(config, accelerator, start)
    validation = Validation(config, accelerator) if config.validation.source else None
    stop = StopRequest(accelerator, config.max_minutes)
    loader = training_loader(
        config, run.vae.config.latent_channels, processes=accelerator.num_processes, rank=accelerator.process_index,
        start_step=start, pin=accelerator.device.type == "cuda",
    )  # fmt: skip
    batches, meter, watch = iter(loader), Meter(), Watch(run.vae.config.latent_channels)
    broken: list[tuple[str, str]] = []
    clock = time.perf_counter()
    images_since, seconds_since = 0, 0.0

    def validate(step: int) -> None:
        if validation is not None:
            report.validation(step, validation.run(run.ema.model))

    def checkpoint() -> None:
        meter.check_finite(accelerator)
        if accelerator.is_main_process:
            record = {"vae_config": dict(run.vae.config), "config": config.as_dict()}
            save_checkpoint(run.state, run.folder / "checkpoints", record=record, keep=config.keep_checkpoints)
        accelerator.wait_for_everyone()

    try:
        if start == 0:
            validate(0)
        for step in range(start, config.steps):
            clock = time.perf_counter()
            plan = plan_step(config, step)
            broken += train_step(run, batches, plan, meter)
            done, last = step + 1, step + 1 == config.steps
            report.advance(config.batch_size)
            images_since, seconds_since = images_since + config.batch_size, seconds_since + time.perf_counter() - clock
            if done % config.log_every == 0 or last:
                meter.check_finite(accelerator)
                averages = meter.averages(accelerator) | {
                    "lr": plan.vae_lr,
                    "images_per_second": images_since / seconds_since,
                }
                report.log("train", done, averages)
                report.skipped(gather_object(broken))
                for warning in watch.look(averages):
                    report.say(f"step {done}: {warning}")
                broken, images_since, seconds_since = [], 0, 0.0
            stopping = not last and stop.agreed(done, config.log_every)
            if done % config.validation.every == 0 or last:
                validate(done)
            if done % config.checkpoint_every == 0 or last or stopping:
                checkpoint()
            if stopping:
                report.say(f"stopped after step {done} of {config.steps}; the same command goes on")
                break
    finally:
        stop.close()
        report.close()
    return run.folder
