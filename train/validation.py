"""Metrics of the averaged weights on images that are not trained on, shared among the processes."""

from dataclasses import dataclass

from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import AutoencoderKL

from eval.metrics import evaluate_pairs, make_metrics, mean_metric
from eval.reconstruct.modes import reconstruct
from latentcodec.images.decode import BrokenImageError
from latentcodec.images.geometry import center_crop, resize_short_side
from train.config import TrainConfig
from train.data import open_indexed
from train.run_config import ConfigError
from train.sheets import Image


@dataclass
class ValidationResult:
    """Means over images, and the rows they come from."""

    means: dict[str, float]
    rows: list[dict[str, float | str]]
    pictures: list[tuple[Image, Image]]
    """(original, reconstruction) of the first images."""


def load_squares(source: str, count: int, size: int) -> dict[str, Image]:
    """{id: uint8 square of `size` pixels}: the first `count` decodable images, short side resized, centre cut.

    Raises ConfigError when none can be decoded.
    """
    opened = open_indexed(source)
    images: dict[str, Image] = {}
    for index in range(len(opened)):
        if len(images) == count:
            break
        try:
            item = opened[index]
            image = resize_short_side(item.decode(draft_size=size), size)
        except BrokenImageError as error:
            print(f"{source}: passed over {error.id}: {error.reason}")
            continue
        images[item.id] = center_crop(image, size, size)
    if not images:
        raise ConfigError(f"{source}: no image could be decoded")
    return images


class Validation:
    """Loads images and metrics once; `run` measures a VAE."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        wanted = config.validation
        assert wanted.source is not None, "the loop validates only where validation.source is given"
        self.images = load_squares(wanted.source, wanted.images, wanted.size)
        self.pictures = wanted.pictures
        backbones = {config.loss.lpips_net: config.loss.lpips_backbone}
        self.metrics = make_metrics(wanted.metrics, backbones=backbones, device=accelerator.device)

    def run(self, vae: AutoencoderKL) -> ValidationResult:
        """Measure the reconstruction of the posterior's mean, in fp32, on uint8 pixels."""
        accelerator = self.accelerator
        vae.eval()
        mine = list(self.images)[accelerator.process_index :: accelerator.num_processes]
        pairs = [(id, self.images[id], reconstruct(vae, self.images[id])) for id in mine]
        measured = evaluate_pairs([pair[1] for pair in pairs], [pair[2] for pair in pairs], self.metrics)
        local = [(id, row, output) for (id, _, output), row in zip(pairs, measured, strict=True)]
        gathered: list[tuple[str, dict[str, float], Image]] = gather_object(local)
        everything = {id: (row, output) for id, row, output in gathered}
        rows: list[dict[str, float | str]] = [{"id": id, **everything[id][0]} for id in self.images]
        means = {name: mean_metric([everything[id][0][name] for id in self.images]) for name in self.metrics}
        pictures = [(self.images[id], everything[id][1]) for id in list(self.images)[: self.pictures]]
        return ValidationResult(means, rows, pictures)
