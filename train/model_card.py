"""README.md of an exported VAE: what it is, how to use it, and only figures that were measured."""

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml
from diffusers import AutoencoderKL

from latentcodec.vae.calibration import LatentStatistics
from latentcodec.vae.cost import vae_cost
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
    validation: ValidationResult | None
    variants: list[Variant]


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _use(vae: AutoencoderKL) -> str:
    scaling = vae.config.scaling_factor
    shift = vae.config.shift_factor
    latents = f"(moments.mean - {shift:.6g}) * {scaling:.6g}" if shift else f"moments.mean * {scaling:.6g}"
    return f"""```python
import torch
from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained("PATH_OF_THIS_FOLDER")
images = torch.rand(1, 3, 256, 256) * 2 - 1             # float32 in [-1, 1]
with torch.no_grad():
    moments = vae.encode(images).latent_dist
    latents = {latents}        # standard deviation 1, for a diffusion model
    again = vae.decode(moments.mean).sample
```"""


def write_card(folder: Path, vae: AutoencoderKL, config: TrainConfig, measured: Measured) -> None:
    """Write `folder/README.md`."""
    statistics, result = measured.statistics, measured.validation
    channels, cost = vae.config.latent_channels, vae_cost(vae, 256, 256)
    widths = ", ".join(str(width) for width in vae.config.block_out_channels)
    loads = [[name, "yes" if reason is None else f"no: {reason}"] for name, reason in ecosystems(vae.config).items()]
    kept = config.model.train == "decoder"
    sections = [
        "---\nlibrary_name: diffusers\npipeline_tag: image-to-image\ntags: [autoencoder, vae, latentcodec]\n---",
        f"# f8d{channels} KL autoencoder",
        f"{channels} latent channels, 8 times smaller on each side. Block widths {widths}; "
        f"{cost.parameters / 1e6:.2f} M parameters, "
        f"{cost.encoder_parameters / 1e6:.2f} M of them the encoder; {cost.encode_gmac:.1f} GMAC to encode and "
        f"{cost.decode_gmac:.1f} GMAC to decode 256x256. "
        f"Averaged weights after {measured.step} steps of {config.batch_size} images.",
        _use(vae),
        "## Latents",
        f"Scaling factor {vae.config.scaling_factor:.6g}, "
        + (
            "that of the VAE this decoder was trained for: its latents are unchanged. "
            if kept
            else "one over the standard deviation of the latents. "
        )
        + f"Measured on {measured.calibration_images} training images: standard deviation {1 / statistics.scaling_factor:.6g}, "
        f"mean {statistics.shift_factor:.6g}.",
        _table(
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
            f"Mean over {len(result.rows)} images of `{config.validation.source}`, short side resized and centre cut to "
            f"{config.validation.size} pixels, not trained on. Mean latents, fp32, pixels rounded to uint8. "
            "Every image is in `validation.jsonl`.",
            _table(list(result.means), [[f"{value:.4f}" for value in result.means.values()]]),
            "![originals above reconstructions](reconstructions.png)",
        ]
    if measured.variants:
        rows = [[v.name, f"{v.psnr_to_fp32:.2f} dB", f"{v.psnr_lost:.4f} dB"] for v in measured.variants]
        sections += ["## Variants", _table(["variant", "PSNR to the fp32 reconstruction", "PSNR lost"], rows)]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "accelerate"))
    sections += [
        "## Where it loads",
        _table(["program", "loads"], loads),
        "## Provenance",
        f"Weights fingerprint `{weights_fingerprint(vae)}`. "
        f"Exported with {versions}, Python {platform.python_version()}. Config:",
        f"```yaml\n{yaml.safe_dump(config.as_dict(), sort_keys=False).strip()}\n```",
    ]
    (folder / "README.md").write_text("\n\n".join(sections) + "\n")
