"""From a run to a diffusers folder: EMA weights, measured scaling factor, model card, variants, LDM single file."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from eval.metrics import psnr
from eval.reconstruct.modes import reconstruct
from latentcodec.images.pixels import to_tensor
from latentcodec.images.save import save_png
from latentcodec.vae.calibration import measure_latents, write_scaling
from latentcodec.vae.ldm import save_ldm
from latentcodec.vae.loading import load_vae, save_vae
from train.config import TrainConfig, parse_config_dict
from train.model_card import Measured, Variant, write_card
from train.sheets import Image, sheet
from train.state import CheckpointError, newest_checkpoint, read_record
from train.validation import Validation, load_squares
from train.warm_start import load_run

CALIBRATION_SIZE = 256
CALIBRATION_BATCH = 8
PICTURE = "reconstructions.png"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def calibration_images(config: TrainConfig, count: int) -> list[Image]:
    """`count` squares of 256 pixels from the training sources, each source with its share."""
    shares = config.data.weighted_sources()
    total = sum(shares.values())
    images: list[Image] = []
    for source, share in shares.items():
        images += load_squares(source, max(1, round(count * share / total)), CALIBRATION_SIZE).values()
    return images


def _batches(images: list[Image]) -> Iterator[Float[Tensor, "batch 3 height width"]]:
    for first in range(0, len(images), CALIBRATION_BATCH):
        yield torch.stack([to_tensor(image) for image in images[first : first + CALIBRATION_BATCH]])


def export_run(
    run: Path,
    out: Path,
    *,
    variants: tuple[str, ...] = (),
    ldm: bool = True,
    calibration: int = 64,
    device: str | None = None,
    half: bool = False,
    about: str = "",
    pictures: bool = True,
) -> Path:
    """Write the averaged network of `run` as a diffusers folder `out`; returns it.

    The scaling factor is measured on `calibration` training images, except after decoder-only training that started
    from an exported VAE, whose latents, hence also their scaling, are kept. With `ldm`, a CompVis single
    file for ComfyUI and A1111 lies beside the diffusers weights. With `half`, the weights themselves are rounded to float16
    and stored so, and all that is measured is measured with the rounded ones. `about` is a section of Markdown for the model
    card: data, licence, whatever no run knows of itself. Without `pictures` no validation image is shown, for images that are
    not to be passed on. Raises CheckpointError when the run has no
    checkpoint, FileExistsError when `out` is a folder with something else in it.
    """
    if out.exists() and any(out.iterdir()) and not (out / "config.json").exists():
        raise FileExistsError(
            f"{out}: expected a new folder or an older export; found other files. Name another folder"
        )
    checkpoint = newest_checkpoint(run / "checkpoints")
    if checkpoint is None:
        raise CheckpointError(
            f"{run}: no whole checkpoint under {run / 'checkpoints'}. Train first, or name another folder"
        )
    record = read_record(checkpoint)
    config = parse_config_dict(record["config"])
    accelerator = Accelerator(cpu=device == "cpu")
    vae = load_run(run)
    if half:
        vae = vae.half().float()
    vae = vae.to(accelerator.device)
    images = calibration_images(config, calibration)
    statistics = measure_latents(vae, _batches(images))
    if not record["keeps_scaling"]:
        write_scaling(vae, statistics)

    aside = out.with_name(f".writing-{out.name}")
    shutil.rmtree(aside, ignore_errors=True)
    save_vae(vae.half() if half else vae, aside)
    vae.float()  # no value changes
    if ldm:
        save_ldm(vae, aside / "ldm.safetensors")
    validation = Validation(config, accelerator) if config.validation.source else None
    result = validation.run(vae) if validation else None
    measured = [_export_variant(vae, aside, name, validation) for name in variants]
    picture = PICTURE if pictures and result is not None else None
    if result is not None:
        if picture is not None:
            save_png(sheet(result.pictures), aside / picture)
        rows = "".join(json.dumps(row) + "\n" for row in result.rows)
        (aside / "validation.jsonl").write_text(rows)
    (aside / "calibration.json").write_text(
        json.dumps({"images": len(images), **dataclasses.asdict(statistics)}, indent=1) + "\n"
    )
    write_card(
        aside,
        vae,
        config,
        Measured(record["step"], len(images), statistics, record["keeps_scaling"], result, measured),
        about,
        picture,
    )
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(out)
    return out


def _export_variant(vae: AutoencoderKL, folder: Path, name: str, validation: Validation | None) -> Variant:
    save_vae(vae, folder, variant=name)
    images = list(validation.images.values()) if validation else []
    cast = load_vae(folder, dtype=DTYPES[name], variant=name).to(vae.device)
    exact = [reconstruct(vae, image) for image in images]
    rounded = [reconstruct(cast, image) for image in images]
    apart = [psnr(one, other) for one, other in zip(exact, rounded, strict=True)]
    lost = [psnr(image, one) - psnr(image, other) for image, one, other in zip(images, exact, rounded, strict=True)]
    return Variant(
        name, float(np.mean(apart)) if apart else float("nan"), float(np.mean(lost)) if lost else float("nan")
    )
