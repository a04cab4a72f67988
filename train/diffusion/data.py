"""Batches of a latent store for one process, and what is random in a step: functions of the seed and the place."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from latentcodec.scaling import Scaling
from latentcodec.store.dataset import LatentDataset
from latentcodec.store.loader import LatentLoader
from latentcodec.store.sampler import BucketBatchSampler
from latentcodec.store.samples import LatentBatch
from train.data import leave_sigterm_to_the_trainer
from train.diffusion.config import DiffusionConfig
from train.diffusion.denoising import Draws
from train.diffusion.model import NO_CLASS
from train.run_config import ConfigError


def open_store(
    url: str, key: str, vae: Any, patch: int, *, seed: int = 0, sample: bool | None = None,
    kind: type[LatentDataset] = LatentDataset,
) -> LatentDataset:  # fmt: skip
    """A store that a DiT can be trained on. Its latents are raw * scaling_factor: `DiTPipeline` knows no more than that.

    Args:
        key: of the setting that names it, for messages.
        vae: of the store; another one is refused.

    Raises:
        ConfigError: its latents are not square, of several sizes, or their sides are no multiple of `patch`.
        StoreError: as `LatentDataset`.
    """
    dataset = kind(url, vae=vae, seed=seed, sample=sample)
    dataset.scaling = Scaling(dataset.scaling.factor)
    shapes = sorted({(bucket.height, bucket.width) for bucket in dataset.buckets})
    if len(shapes) != 1 or shapes[0][0] != shapes[0][1] or shapes[0][0] % patch:
        found = ", ".join(f"{height}x{width}" for height, width in shapes[:4]) + (", ..." if shapes[4:] else "")
        raise ConfigError(
            f"{key}: expected latents of one square size, a multiple of {patch} (transformer.patch); found {found}. "
            "Write the store with `latentcodec precompute --size N` and --resolution crop"
        )
    return dataset


def latent_shape(dataset: LatentDataset) -> tuple[int, int]:
    """Channels and side of its latents."""
    return dataset.manifest.settings.channels, dataset.buckets[0].height


def labels_of(batch: LatentBatch, classes: int) -> Int64[Tensor, " batch"]:
    """Classes of a batch: `NO_CLASS` where a row has none, and everywhere if `classes` is 0.

    Raises:
        ConfigError: a label outside of 0 ... classes - 1.
    """
    if classes == 0:
        return torch.full((len(batch["id"]),), NO_CLASS)
    labels = batch.get("label", [None] * len(batch["id"]))
    for id, label in zip(batch["id"], labels, strict=True):
        if label is not None and not 0 <= label < classes:
            raise ConfigError(
                f"classes: expected labels from 0 to {classes - 1}; found {int(label)} for {id}; raise classes"
            )
    return torch.tensor([NO_CLASS if label is None else int(label) for label in labels])


class EndlessLatents:
    """Batches of one process, epoch after epoch; knows where it is."""

    def __init__(
        self, config: DiffusionConfig, dataset: LatentDataset, *, processes: int, rank: int, pin: bool
    ) -> None:
        sampler = BucketBatchSampler(
            dataset, config.microbatch(processes), seed=config.seed, drop_last=True, rank=rank, world_size=processes
        )
        workers = config.store.workers
        self._loader = LatentLoader(
            dataset, sampler, num_workers=workers, pin_memory=pin, persistent_workers=workers > 0,
            worker_init_fn=leave_sigterm_to_the_trainer,
        )  # fmt: skip

    def __iter__(self) -> Iterator[LatentBatch]:
        while True:
            yield from self._loader

    def state_dict(self) -> dict[str, Any]:
        """The place of all processes together, as of the batches that were handed over."""
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there.

        Raises:
            StoreMismatchError: the store is another one, or the micro-batch another size.
        """
        self._loader.load_state_dict(state)


def draw(
    batch: LatentBatch, levels: int, config: DiffusionConfig, *, step: int, part: int, device: torch.device
) -> Draws:
    """Level of noise, noise, and whether the class is withheld, for each row of a micro-batch.

    They come from the device's own generator: fast, and the same again on the same kind of device. `part` is the number of
    the micro-batch among those of the step, of all processes together.
    """
    generator = torch.Generator(device)
    generator.manual_seed(int(np.random.SeedSequence([config.seed, step, part]).generate_state(1)[0]))
    latents, labels = batch["latents"], labels_of(batch, config.classes).to(device)
    rows = len(latents)
    timesteps = torch.randint(0, levels, (rows,), generator=generator, device=device)
    noise = torch.randn(latents.shape, generator=generator, device=device)
    withheld = torch.rand(rows, generator=generator, device=device) < config.class_dropout
    return Draws(timesteps, noise, torch.where(withheld, torch.full_like(labels, NO_CLASS), labels))
