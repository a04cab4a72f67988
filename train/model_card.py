"""README.md of an exported VAE: what it is, how to use it, and only figures that were measured."""

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from diffusers import AutoencoderKL

from latentcodec.vae.calibration import LatentStatistics
from latentcodec.vae.card import FRONT_MATTER, loads, summary, table, usage
from latentcodec.vae.ecosystems import ecosystems
from latentcodec.vae.fingerprint import weights_fingerprint
from train.config import TrainConfig
from train.validation import ValidationResult


@dataclass(frozen=True)
class Variant:
    """A copy of the weights in another dtype, and what that costs on the validation images."""

    name: str
    psnr_to_fp32: float
    """PSNR in dB between the two reconstructions: how far the variant's pictures are from fp32's."""
    psnr_lost: float
    """PSNR against the originals that is lost, in dB (negative: gained)."""


@dataclass(frozen=True)
class Measured:
    """Every figure of a card."""

    step: int
    calibration_images: int
    statistics: LatentStatistics
    scaling_kept: bool
    """Whether the scaling factor is that of the VAE that the run started from."""
    validation: ValidationResult | None
    variants: list[Variant]


def without_folders(value: Any) -> Any:
    """Nested settings with the last part of every absolute path alone: a card tells nothing of the machine it came from."""
    if isinstance(value, dict):
        return {without_folders(key): without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_folders(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def write_card(
    folder: Path,
    vae: AutoencoderKL,
    config: TrainConfig,
    measured: Measured,
    about: str = "",
    picture: str | None = None,
) -> None:
    """Write `folder/README.md`; `about` is a section of it, and `picture` a file in the folder to show."""
    statistics, result = measured.statistics, measured.validation
    programs = [[name, loads(reason)] for name, reason in ecosystems(vae.config).items()]
    sections = [
        FRONT_MATTER,
        f"{summary(vae.config)} Averaged weights after {measured.step} steps of {config.batch_size} images.",
        usage(vae.config, "PATH_OF_THIS_FOLDER"),
        *([about.strip()] if about.strip() else []),
        "## Latents",
        f"Scaling factor {vae.config.scaling_factor:.6g}, "
        + (
            "that of the VAE this decoder was trained for: its latents are unchanged. "
            if measured.scaling_kept
            else "one over the standard deviation of the latents. "
        )
        + f"Measured on {measured.calibration_images} training images: standard deviation {1 / statistics.scaling_factor:.6g}, "
        f"mean {statistics.shift_factor:.6g}.",
        table(
            ["channel", "mean", "std"],
            [
                [str(i), f"{m:.4f}", f"{s:.4f}"]
                for i, (m, s) in enumerate(zip(statistics.mean, statistics.std, strict=True))
            ],
        ),
    ]
    if result is not None:
        sections += [
            "## Reconstruction",
            f"Mean over {len(result.rows)} images of `{without_folders(config.validation.source)}`, short side resized and "
            f"centre cut to {config.validation.size} pixels, not trained on. Mean latents, fp32, pixels rounded to uint8. "
            "Every image is in `validation.jsonl`.",
            table(list(result.means), [[f"{value:.4f}" for value in result.means.values()]]),
            *([f"![originals above reconstructions]({picture})"] if picture else []),
        ]
    if measured.variants:
        rows = [[v.name, f"{v.psnr_to_fp32:.2f} dB", f"{v.psnr_lost:.4f} dB"] for v in measured.variants]
        sections += ["## Variants", table(["variant", "PSNR to the fp32 reconstruction", "PSNR lost"], rows)]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "accelerate"))
    sections += [
        "## Where it loads",
        table(["program", "loads"], programs),
        "## Provenance",
        f"Weights fingerprint `{weights_fingerprint(vae)}`. "
        f"Exported with {versions}, Python {platform.python_version()}. Config:",
        f"```yaml\n{yaml.safe_dump(without_folders(config.as_dict()), sort_keys=False).strip()}\n```",
    ]
    (folder / "README.md").write_text("\n\n".join(sections) + "\n")
