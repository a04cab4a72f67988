"""What a step of the VAE's training is, top to bottom. The loop around it is `train/driver.py`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from latentcodec.images.pixels import normalize
from train.config import TrainConfig
from train.data import Batch, training_loader
from train.driver import Updated, drive
from train.health import Meter, Watch
from train.launch import make_accelerator, set_lr
from train.report import Report
from train.run import Run, build_run
from train.schedule import StepPlan, plan_step
from train.sheets import sheet
from train.validation import Validation
from train.warm_start import keeps_scaling


def train_step(run: Run, batches: Iterator[Batch], plan: StepPlan, meter: Meter) -> list[tuple[str, str]]:
    """One update of each side from `accumulate` micro-batches; returns the broken images met on the way.

    The discriminator learns from the same reconstructions, detached, that the generator was just scored on.
    """
    accelerator, config = run.accelerator, run.config
    sides = [side for side in (run.generator, run.discriminator) if side is not None]
    clip = config.optimizer.clip or float("inf")
    set_lr(run.generator_optimizer, plan.vae_lr)
    if run.discriminator_optimizer is not None:
        set_lr(run.discriminator_optimizer, plan.discriminator_lr)
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


class VaeJob:
    """What a step, a validation and a checkpoint of a VAE's training are (train/driver.py)."""

    def __init__(self, run: Run, start: int) -> None:
        self.run, config, accelerator = run, run.config, run.accelerator
        self.validation = Validation(config, accelerator) if config.validation.source else None
        self.validate_every = config.validation.every
        loader = training_loader(
            config, run.vae.config.latent_channels, processes=accelerator.num_processes, rank=accelerator.process_index,
            start_step=start, pin=accelerator.device.type == "cuda",
        )  # fmt: skip
        self.batches = iter(loader)
        self.watch = Watch(run.vae.config.latent_channels)
        self.keeps_scaling = keeps_scaling(config.model)

    def update(self, step: int, meter: Meter) -> Updated:
        """One step of both sides."""
        plan = plan_step(self.run.config, step)
        return Updated(plan.vae_lr, train_step(self.run, self.batches, plan, meter))

    def warnings(self, averages: dict[str, float]) -> list[str]:
        """What is wrong with a run whose log says this."""
        return self.watch.look(averages)

    def validate(self, step: int, report: Report) -> None:
        """Metrics and pictures of the averaged weights."""
        if self.validation is not None:
            result = self.validation.run(self.run.ema.model)
            report.measured(step, result.means)
            report.rows("validation.jsonl", result.rows)
            report.picture(step, sheet(result.pictures))

    def record(self) -> dict[str, Any]:
        """What a checkpoint needs besides weights and step."""
        return {
            "vae_config": dict(self.run.vae.config), "config": self.run.config.as_dict(),
            "keeps_scaling": self.keeps_scaling,
        }  # fmt: skip


def train(config: TrainConfig) -> Path:
    """Train as `config` says, resuming where `config.out` left off; returns the run's folder.

    Raises ConfigError, CheckpointError, NonFiniteLossError; a run that was stopped goes on with the same call.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    accelerator = make_accelerator(config)
    run = build_run(config, accelerator)
    drive(config, accelerator, run.state, VaeJob(run, run.state.step), shown=(*config.loss.weights, "gan"))
    return run.folder
