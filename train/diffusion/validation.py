"""What a network leaves unexplained of held-out latents, with the same noise each time; shared among the processes."""

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import DiTTransformer2DModel

from latentcodec.store.dataset import LatentDataset
from train.diffusion.config import DiffusionConfig
from train.diffusion.data import labels_of
from train.diffusion.denoising import Draws, Unexplained, pointwise_error, unexplained_errors
from train.diffusion.model import noise_schedule

_BATCH = 32


@dataclass(frozen=True)
class DenoisingResult:
    """Means over images and levels, and the rows they come from, one for each level of noise."""

    means: dict[str, float]
    rows: list[dict[str, float]]


class DenoisingValidation:
    """Reads the latents once; `run` measures a network."""

    def __init__(self, config: DiffusionConfig, accelerator: Accelerator, dataset: LatentDataset) -> None:
        self.accelerator, self.config = accelerator, config
        self.schedule = noise_schedule()
        steps, levels = len(self.schedule.alphas_cumprod), config.validation.levels
        self.timesteps = [round((level + 0.5) * steps / levels) for level in range(levels)]
        count = min(config.validation.images, len(dataset))
        batch = dataset.batch(range(count))
        self.latents, self.labels = batch["latents"], labels_of(batch, config.classes)
        self.variance = self.latents.var(dim=(0, 2, 3))

    def run(self, transformer: DiTTransformer2DModel) -> DenoisingResult:
        """Measure a network, in the precision of its training."""
        accelerator = self.accelerator
        transformer.eval()
        mine = torch.arange(len(self.latents))[accelerator.process_index :: accelerator.num_processes]
        local = {
            (level, int(row)): values
            for level, timestep in enumerate(self.timesteps)
            for rows in mine.split(_BATCH)
            for row, values in zip(rows, self._errors(transformer, level, timestep, rows), strict=True)
        }
        everything: dict[tuple[int, int], tuple[np.ndarray, float]] = {}
        for part in gather_object([local]):
            everything |= part
        rows = []
        for level, timestep in enumerate(self.timesteps):
            errors, losses = zip(*(everything[level, row] for row in range(len(self.latents))), strict=True)
            share = float((np.mean(errors, axis=0) / self.variance.numpy()).mean())
            left = Unexplained(share, pointwise_error(self.schedule, timestep, self.variance))
            rows.append({
                "timestep": float(timestep), "velocity": float(np.mean(losses)), "unexplained": left.network,
                "pointwise": left.pointwise, "structure": left.structure,
            })  # fmt: skip
        names = ("velocity", "unexplained", "structure")
        return DenoisingResult({name: float(np.mean([row[name] for row in rows])) for name in names}, rows)

    def _errors(
        self, transformer: DiTTransformer2DModel, level: int, timestep: int, rows: torch.Tensor
    ) -> list[tuple[np.ndarray, float]]:
        """Of each row: the squared error of each channel's estimate, and that of the velocity."""
        device = self.accelerator.device
        latents = self.latents[rows].to(device)
        noise = torch.stack([self._noise(level, int(row)) for row in rows]).to(device)
        draws = Draws(torch.full((len(rows),), timestep, device=device), noise, self.labels[rows].to(device))
        errors, losses = unexplained_errors(transformer, self.schedule, latents, draws, self.config.mixed_precision)
        return list(zip(errors.cpu().numpy(), losses.cpu().tolist(), strict=True))

    def _noise(self, level: int, row: int) -> torch.Tensor:
        """The same for every network, run and process."""
        generator = torch.Generator().manual_seed(level * len(self.latents) + row)
        return torch.randn(self.latents.shape[1:], generator=generator)
