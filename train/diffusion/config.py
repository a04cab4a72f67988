"""Every setting of a diffusion model's training. What all runs have is in `train/run_config.py`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from latentcodec.arguments import Parser
from train.run_config import OptimizerConfig, RunConfig, config_parser, parsed, require


@dataclass
class TransformerConfig:
    """A DiT (Peebles & Xie 2023, arXiv 2212.09748); its size follows DiT-S if nothing is given but 12 layers."""

    layers: int = 6
    """Transformer blocks."""
    heads: int = 4
    """Attention heads of each."""
    head_channels: int = 64
    """Channels of each head; heads x this is the width."""
    patch: int = 2
    """Latents of a token on each side."""


@dataclass
class StoreConfig:
    """The latents to train on, as `latentcodec precompute` writes them: square, all of one size."""

    train: str = ""
    """Store (folder or URL) to train on."""
    validation: str | None = None
    """Store of images that are not trained on, by the same VAE. None: no validation."""
    vae: str | None = None
    """The VAE of these stores, for pictures and the pipeline; another one is refused. None: the one that comes along."""
    workers: int = 0
    """Processes that read, for each training process. Local stores are mapped into memory and need none."""


@dataclass
class DenoisingConfig:
    """What is measured on the validation store, always with the same noise."""

    every: int = 1000
    """Steps between validations; there is one before the first step and one after the last."""
    images: int = 256
    """How many rows of the store are used: the first ones."""
    levels: int = 8
    """Levels of noise, evenly spaced over the schedule."""
    pictures: int = 8
    """Samples to draw; 0 for none, which needs no VAE."""
    sampling_steps: int = 50
    """Steps of each sample, DDIM."""
    guidance: float = 2.0
    """Classifier-free guidance of each sample, where there are classes (Ho & Salimans 2022, arXiv 2207.12598)."""


@dataclass
class DiffusionConfig(RunConfig):
    """One training run of a diffusion model. `out` holds everything that it leaves; the same command again resumes it."""

    store: StoreConfig = field(default_factory=StoreConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    classes: int = 0
    """The store's labels are 0 to classes - 1. 0: labels are not used."""
    class_dropout: float = 0.1
    """Share of the images whose class is withheld, for guidance."""
    validation: DenoisingConfig = field(default_factory=DenoisingConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=3e-4, betas=(0.9, 0.99)))

    may_change: ClassVar[tuple[str, ...]] = (*RunConfig.may_change, "store", "validation")
    """A store is known by its settings, which the place in the data is checked against; not by where it lies."""

    def __post_init__(self) -> None:
        require(bool(self.store.train), "store.train: no store named; `latentcodec precompute` makes one")
        require(0 <= self.classes <= 1000, f"classes: expected 0 to 1000, DiTPipeline's most; found {self.classes}")
        require(0 <= self.class_dropout < 1, f"class_dropout: expected 0 to below 1; found {self.class_dropout}")
        require(self.validation.levels >= 1, f"validation.levels: expected at least 1; found {self.validation.levels}")
        super().__post_init__()


def diffusion_parser() -> Parser:
    """The parser of `python -m train diffusion`."""
    return config_parser(
        DiffusionConfig,
        prog="train diffusion",
        description="Train a class-conditional diffusion transformer on a latent store.",
        example="train/diffusion/presets/small.yaml",
    )


def parse_diffusion(arguments: list[str] | None = None) -> DiffusionConfig:
    """DiffusionConfig from command-line arguments; exits with 2 on a wrong key, raises ConfigError on a wrong value."""
    return parsed(DiffusionConfig, diffusion_parser(), arguments)


def load_diffusion_preset(name: str, *overrides: str) -> DiffusionConfig:
    """A preset of `train/diffusion/presets/` by its name, with `--key value` overrides."""
    return parse_diffusion(["--config", str(Path(__file__).parent / "presets" / f"{name}.yaml"), *overrides])
