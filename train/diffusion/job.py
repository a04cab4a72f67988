"""What a step, a validation and a checkpoint of a diffusion model's training are; the loop is `train/driver.py`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL, DiTTransformer2DModel

from latentcodec.store.dataset import LatentDataset
from latentcodec.vae.loading import load_vae
from latentcodec.vae.sources import default_source
from train.diffusion.config import DiffusionConfig
from train.diffusion.data import EndlessLatents, draw, latent_shape, open_store
from train.diffusion.denoising import DenoisingSide
from train.diffusion.model import NO_CLASS, build_transformer, make_pipeline, noise_schedule, save_pipeline
from train.diffusion.validation import DenoisingValidation
from train.driver import Updated, drive
from train.ema import Ema
from train.health import Meter
from train.launch import checkpoint_of, make_accelerator, optimizer_for, set_lr
from train.report import Report
from train.schedule import learning_rate
from train.sheets import Image, sheet
from train.state import TrainState, load_checkpoint, read_record

PIPELINE = "pipeline"
"""Folder of the finished model in a run's folder."""

_SAMPLES_AT_ONCE = 16


class DiffusionJob:
    """Everything a run is made of, built from its config on every process, restored where there is a checkpoint."""

    def __init__(
        self, config: DiffusionConfig, accelerator: Accelerator, kind: type[LatentDataset] = LatentDataset
    ) -> None:
        """`kind`: how the stores are read, for measurements."""
        self.config, self.accelerator = config, accelerator
        checkpoint = checkpoint_of(config)
        self.vae = self._load_vae()
        named, patch = config.store, config.transformer.patch
        self.dataset = open_store(named.train, "store.train", self.vae, patch, seed=config.seed, kind=kind)
        channels, size = latent_shape(self.dataset)
        set_seed(config.seed)
        transformer = build_transformer(config.transformer, channels, size).to(accelerator.device)
        self.ema: Ema[DiTTransformer2DModel] = Ema(transformer, config.ema_decay)
        self.schedule = noise_schedule()
        side = DenoisingSide(transformer, self.schedule, config.mixed_precision)
        optimizer = optimizer_for(config.optimizer, side)
        self.state = TrainState({"transformer": transformer, "ema": self.ema.model}, {"optimizer": optimizer})
        self.latents = EndlessLatents(
            config, self.dataset, processes=accelerator.num_processes, rank=accelerator.process_index,
            pin=accelerator.device.type == "cuda",
        )  # fmt: skip
        if checkpoint is not None:
            load_checkpoint(self.state, checkpoint)
            self.latents.load_state_dict(read_record(checkpoint)["data"])
            accelerator.print(f"resumed from {checkpoint.name}")
        self.transformer = transformer
        self.side, self.optimizer = accelerator.prepare(side, optimizer)
        self.batches = iter(self.latents)
        self._warned = False
        self.validate_every = config.validation.every
        self.validation = None
        if named.validation is not None:
            held_out = open_store(named.validation, "store.validation", self.vae, patch, sample=False, kind=kind)
            self.validation = DenoisingValidation(config, accelerator, held_out)

    def _load_vae(self) -> AutoencoderKL | None:
        """The VAE of the store; None where no picture is asked for and none is named."""
        named = self.config.store.vae
        if named is None and not self.config.validation.pictures:
            return None
        return load_vae(named or default_source(), device=self.accelerator.device)

    def update(self, step: int, meter: Meter) -> Updated:
        """One update from `accumulate` micro-batches."""
        config, accelerator = self.config, self.accelerator
        rate = learning_rate(config.optimizer, config.optimizer.lr, step, config.steps)
        set_lr(self.optimizer, rate)
        for micro in range(config.accumulate):
            batch = next(self.batches)
            part = micro * accelerator.num_processes + accelerator.process_index
            draws = draw(
                batch, len(self.schedule.alphas_cumprod), config, step=step, part=part, device=accelerator.device
            )
            latents = batch["latents"].to(accelerator.device, non_blocking=True)
            with accelerator.accumulate(self.side):
                loss, scalars = self.side(latents, draws)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.side.parameters(), config.optimizer.clip or float("inf"))
                    meter.add({"gradient_norm": norm})
                self.optimizer.step()
                self.optimizer.zero_grad()
            meter.add({"loss": loss, **scalars})
            meter.add_loss(step, loss, batch["id"])
        self.ema.update(self.transformer, step)
        self.state.step = step + 1
        return Updated(rate)

    def warnings(self, averages: dict[str, float]) -> list[str]:
        """Latents far from unit variance meet the wrong levels of noise."""
        spread = averages["latent_std"]
        if 0.5 < spread < 2 or self._warned:
            return []
        self._warned = True
        return [
            f"the latents' standard deviation is {spread:.3g}, far from 1, so they meet the wrong levels of noise: the "
            f"VAE's scaling_factor, {self.dataset.scaling.factor:.4g}, does not fit these images; "
            f"{self.dataset.scaling.factor / spread:.4g} would"
        ]

    def validate(self, step: int, report: Report) -> None:
        """Errors of the averaged weights at each level of noise, and samples."""
        if self.validation is None:
            return
        result = self.validation.run(self.ema.model)
        report.measured(step, result.means)
        report.rows("validation.jsonl", result.rows)
        pictures = self.draw_pictures() if step else None
        if pictures is not None:
            report.picture(step, pictures)

    def draw_pictures(self) -> Image | None:
        """A sheet of samples; None on all processes but the first, and where none are asked for."""
        count = self.config.validation.pictures
        if self.vae is None or not count or not self.accelerator.is_main_process:
            return None
        return sheet([[picture] for picture in self.draw_samples(count)])

    def draw_samples(self, count: int) -> Iterator[Image]:
        """Pictures from the averaged weights, of all classes in turns. The first ones are the same whatever `count` is."""
        wanted, classes = self.config.validation, self.config.classes
        assert self.vae is not None, "samples need the VAE of the store: set store.vae"
        pipeline = make_pipeline(self.ema.model, self.vae, classes)
        for first in range(0, count, _SAMPLES_AT_ONCE):
            numbers = range(first, min(first + _SAMPLES_AT_ONCE, count))
            drawn = pipeline(
                [number % classes if classes else NO_CLASS for number in numbers],
                guidance_scale=wanted.guidance if classes else 1.0,
                generator=[torch.Generator().manual_seed(number) for number in numbers],
                num_inference_steps=wanted.sampling_steps,
                output_type="np",
            ).images
            yield from np.round(255 * drawn).astype(np.uint8)

    def record(self) -> dict[str, Any]:
        """What a checkpoint needs besides weights and step: the place in the data."""
        return {"config": self.config.as_dict(), "data": self.latents.state_dict()}

    def save(self) -> Path | None:
        """The averaged weights as a `DiTPipeline` folder; None where there is no VAE to go with it."""
        if self.vae is None:
            return None
        folder = Path(self.config.out) / PIPELINE
        if self.accelerator.is_main_process:
            save_pipeline(make_pipeline(self.ema.model, self.vae, self.config.classes), folder)
        self.accelerator.wait_for_everyone()
        return folder


def run_job(config: DiffusionConfig, kind: type[LatentDataset] = LatentDataset) -> DiffusionJob:
    """Make the updates that the run has not had yet; `kind` as `DiffusionJob` takes it."""
    job = DiffusionJob(config, make_accelerator(config), kind)
    drive(config, job.accelerator, job.state, job, shown=("velocity",))
    return job


def train_diffusion(config: DiffusionConfig) -> Path:
    """Train as `config` says, resuming where `config.out` left off; returns the run's folder.

    Raises ConfigError, StoreError, CheckpointError, NonFiniteLossError; a run that was stopped goes on with the same call.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    job = run_job(config)
    if job.state.step == config.steps and (folder := job.save()) is not None:
        job.accelerator.print(f"{folder}: for DiTPipeline.from_pretrained")
    return Path(config.out)
