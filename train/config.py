"""Every setting of a training run, as typed dataclasses; the YAML files in `presets/` and `--key.sub value` fill them.

A docstring under each field is its `--help` text. Checks live in `__post_init__`: they fail before anything is loaded.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from eval.metrics import METRICS
from latentcodec.arguments import Parser
from train.adversarial import GAN_LOSSES
from train.discriminators import DISCRIMINATORS
from train.losses import TERMS
from train.run_config import RunConfig, config_from_dict, config_parser, parsed, require, require_known


@dataclass
class ModelConfig:
    """The network and where its weights start."""

    preset: str = "small-f8d16"
    """Architecture by name (latentcodec/vae/presets.py). Ignored when `init_from` is given without `latent_channels`."""
    init_from: str | None = None
    """Fine-tune this VAE: a diffusers folder, single file, hub name, shipped name, or the folder of a training run (its EMA)."""
    latent_channels: int | None = None
    """Change the number of latent channels. With `init_from`, every tensor that still fits is kept and the others are named."""
    initial_logvar: float = -6.0
    """Log-variance of the posterior where its layer is random. At 0 (LDM) the noise drowns the first latents for long."""
    train: Literal["all", "decoder"] = "all"
    """`decoder`: the encoder and the latents, hence also their statistics, stay as they are."""
    noise_scale: tuple[float, float] = (1.0, 1.0)
    """The posterior's noise is that many times as wide: a factor for each image, drawn log-uniformly from this range. A
    decoder trained with up to 16 bears latents that are quantised that much coarser than the KL term asks for."""

    def __post_init__(self) -> None:
        low, high = self.noise_scale
        require(0 < low <= high, f"model.noise_scale: expected 0 < low <= high; found {low:g}, {high:g}")


@dataclass
class DataConfig:
    """Which images, and how a crop is cut from them. Everything is a pure function of `seed` and the images seen."""

    source: str | dict[str, float] = ""
    """A folder, .tar shards, .parquet files, `hf:owner/name`, `procedural`; or several, as {source: share}."""
    streaming: bool = False
    """Stream `hf:` sources in order through a shuffle buffer instead of opening them for random access."""
    crop: int = 256
    """Side of the square training crops in pixels; a multiple of 8."""
    short_side: int | None = None
    """First resize each image to this short side (LDM: 256). None keeps the resolution of the file."""
    max_downscale: float = 1.0
    """First shrink each image by a random factor in [1, this] (log-uniform), never below the crop."""
    flip: bool = True
    """Mirror half of the crops."""
    max_pixels: int = 89_478_485
    """Images with more pixels are skipped and listed (a decompression bomb costs no memory)."""
    cache: int = 0
    """Decoded images that each worker keeps in memory: for small data sets, which it then decodes once."""
    workers: int = 2
    """Decoding processes for each training process. Does not change the order of the data."""

    def __post_init__(self) -> None:
        require(
            self.crop >= 32 and self.crop % 8 == 0,
            f"data.crop: expected a multiple of 8, at least 32; found {self.crop}",
        )
        require(self.max_downscale >= 1, f"data.max_downscale: expected at least 1; found {self.max_downscale}")
        require(
            self.short_side is None or self.short_side >= self.crop,
            f"data.short_side: expected at least data.crop = {self.crop}; found {self.short_side}",
        )

    def weighted_sources(self) -> dict[str, float]:
        """{source: share}, also when one source was given as a plain string."""
        return {self.source: 1.0} if isinstance(self.source, str) else self.source


@dataclass
class LossConfig:
    """Terms on the reconstruction and on the posterior (train/losses.py)."""

    weights: dict[str, float] = field(default_factory=lambda: {"l1": 1.0, "lpips": 1.0, "kl": 1e-6})
    """Weight of each term by its name in the registry. Names that are absent are not computed."""
    reduction: Literal["mean", "ldm_sum"] = "mean"
    """`mean`: per image value. `ldm_sum`: times 3*H*W, LDM's per-image sums; only the balance with the GAN term changes."""
    lpips_net: Literal["vgg", "alex"] = "vgg"
    """Backbone of the perceptual term."""
    lpips_backbone: str | None = None
    """File with the backbone's weights. None: LATENTCODEC_LPIPS_VGG or _ALEX, then torch's cache, then a download."""
    lpips_precision: Literal["no", "bf16"] = "no"
    """bf16: the backbone's convolutions, whatever mixed_precision says (train/perceptual.py tells what that changes)."""

    def __post_init__(self) -> None:
        for name in self.weights:
            require_known("loss.weights", name, TERMS)
        require(
            any(weight > 0 for weight in self.weights.values()),
            f"loss.weights: expected at least one term above 0; found {self.weights}",
        )


@dataclass
class AdversarialConfig:
    """The discriminator and its schedule, counted in generator updates."""

    discriminator: str = "none"
    """`none`, or a name from train/discriminators.py."""
    width: int = 64
    """Channels of the discriminator's first layer."""
    loss: str = "hinge"
    """`hinge` or `non_saturating` (train/adversarial.py)."""
    weight: float = 0.1
    """Weight of the generator's adversarial term, after the ramp."""
    rule: Literal["constant", "adaptive"] = "constant"
    """`adaptive`: times LDM's ratio of last-layer gradient norms, the gradients averaged across processes."""
    start: int = 0
    """The discriminator starts to learn at this step ..."""
    head_start: int = 500
    """... the generator listens this many steps later ..."""
    ramp: int = 1000
    """... and its weight grows from 0 over this many steps. (LDM: start 50001, head_start 0, ramp 0.)"""
    lecam: float = 0.0
    """Weight of the LeCAM regulariser of the discriminator."""
    r1: float = 0.0
    """Weight of the R1 gradient penalty, gamma / 2."""
    r1_every: int = 16
    """R1 is computed every so many steps, times this number (lazy regularisation)."""

    def __post_init__(self) -> None:
        if self.enabled:
            require_known("adversarial.discriminator", self.discriminator, DISCRIMINATORS)
        require_known("adversarial.loss", self.loss, GAN_LOSSES)

    @property
    def enabled(self) -> bool:
        """Whether there is a discriminator at all."""
        return self.discriminator != "none"


@dataclass
class EquivarianceConfig:
    """EQ-VAE (arXiv 2502.09509): decode a transformed latent and ask for the equally transformed image."""

    probability: float = 0.0
    """Share of the steps whose latents and targets are scaled and rotated."""
    start: int = 0
    """First step at which this happens."""
    min_scale: float = 0.25
    """Smallest scale; drawn in 32nds from [min_scale, 1)."""
    turns: bool = True
    """Turn by multiples of 90 degrees as well; without, only scales are drawn."""
    decoded: bool = True
    """Decode the transformed latents and compare with the transformed image, in the place of the plain pair (EQ-VAE)."""
    latent_weight: float = 0.0
    """Weight of the error between the latents themselves, in those steps: what transformed latents are off from the latents
    of the transformed image, squared and relative (`train.losses.latent_equivariance`). EQ-VAE itself has 0."""

    def __post_init__(self) -> None:
        require(
            0 <= self.probability <= 1,
            f"equivariance.probability: expected 0 to 1; found {self.probability}",
        )
        require(
            self.latent_weight >= 0,
            f"equivariance.latent_weight: expected at least 0; found {self.latent_weight}",
        )
        require(
            self.decoded or self.latent_weight > 0 or self.probability == 0,
            "equivariance: with decoded false and latent_weight 0 it does nothing; give a weight, or probability 0",
        )


@dataclass
class ValidationConfig:
    """Metrics of the EMA weights on images that are not trained on."""

    source: str | None = None
    """Images to validate on (same forms as data.source). None: no validation."""
    every: int = 1000
    """Steps between validations; there is one before the first step and one after the last."""
    images: int = 32
    """How many images of the source are used: the first ones."""
    size: int = 256
    """Images are cut to this centre square; a multiple of 8."""
    metrics: list[str] = field(default_factory=lambda: ["psnr", "ssim"])
    """Names from eval/metrics.py. LPIPS uses loss.lpips_backbone where the nets agree."""
    pictures: int = 8
    """Images in the grid of originals beside reconstructions."""

    def __post_init__(self) -> None:
        for name in self.metrics:
            require_known("validation.metrics", name, METRICS)
        require(self.size % 8 == 0, f"validation.size: expected a multiple of 8; found {self.size}")


@dataclass
class TrainConfig(RunConfig):
    """One training run of a VAE. `out` holds everything that it leaves; the same command again resumes it."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    equivariance: EquivarianceConfig = field(default_factory=EquivarianceConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    channels_last: bool = False
    """Store activations as NHWC: faster on GPUs, and on CPUs only for wide networks."""
    compile: bool = False
    """torch.compile encoder, decoder and discriminator."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    may_change: ClassVar[tuple[str, ...]] = (
        *RunConfig.may_change, "data.workers", "data.cache", "validation", "loss.lpips_backbone", "gradient_checkpointing",
    )  # fmt: skip

    def __post_init__(self) -> None:
        require(
            bool(self.data.source), "data.source: no images named; give a folder, for example --data.source photos/"
        )
        super().__post_init__()


def training_parser() -> Parser:
    """The parser of `python -m train`: `--config FILE`, `--print_config`, and every field of TrainConfig."""
    return config_parser(
        TrainConfig,
        prog="train",
        description="Train a KL autoencoder. `python -m train export RUN OUT` exports one.",
        example="train/presets/small.yaml",
    )


def parse_config(arguments: list[str] | None = None) -> TrainConfig:
    """TrainConfig from command-line arguments; exits with 2 and one line on a wrong key, raises ConfigError on a wrong value."""
    return parsed(TrainConfig, training_parser(), arguments)


def parse_config_dict(values: dict[str, Any]) -> TrainConfig:
    """TrainConfig from what `TrainConfig.as_dict` gave, for example out of a checkpoint."""
    return config_from_dict(TrainConfig, values)


def load_preset(name: str, *overrides: str) -> TrainConfig:
    """A preset of `train/presets/` by its name, with `--key value` overrides."""
    return parse_config(["--config", str(Path(__file__).parent / "presets" / f"{name}.yaml"), *overrides])
