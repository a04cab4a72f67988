"""Save a VAE as a diffusers folder that is never half written."""

import os
import shutil
from pathlib import Path

import safetensors.torch
import torch
from diffusers import AutoencoderKL

from latentcodec.aside import usual_mode
from latentcodec.vae.sources import VARIANTS, WEIGHTS_NAME, read_json
from latentcodec.vae.stored import some
from latentcodec.vae.weights import cast_state, plain_state

_VARIANT_TYPES = dict(zip(VARIANTS, (torch.float16, torch.bfloat16), strict=True))


def save_vae(vae: AutoencoderKL, folder: str | Path, *, variant: str | None = None) -> None:
    """Write a diffusers folder: config.json and one .safetensors file, whole or not at all.

    Without a variant the folder is this VAE from now on: weights of a previous save, variants included, go; other
    files stay. With one, the file is put beside what is there, which must have the same config. A new folder appears
    by one rename. In an old one config.json goes first and comes last, so what an interruption leaves does not load.

    Args:
        vae: the network, on any device; stored in its own type without a variant.
        folder: where to write; parents are made.
        variant: "fp16" or "bf16": the weights rounded to that type, as `diffusion_pytorch_model.fp16.safetensors`.

    Raises:
        ValueError: unknown variant, a variant for a folder with another config, or a folder of another model.
        NonFiniteWeightsError: values that are NaN, infinite or out of the type's range.
    """
    folder = Path(folder).absolute()
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"variant: expected one of {', '.join(VARIANTS)} or None, found {variant!r}")
    if (folder / "config.json").is_file():
        kind = read_json(folder / "config.json").get("_class_name", "AutoencoderKL")
        if kind != "AutoencoderKL":
            raise ValueError(f"{folder} holds a {kind}, which would be overwritten; choose another folder")
    name = f"{WEIGHTS_NAME}.{variant}.safetensors" if variant else f"{WEIGHTS_NAME}.safetensors"
    state = cast_state(plain_state(vae), _VARIANT_TYPES[variant] if variant else vae.dtype)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        vae.save_config(staging)
        with usual_mode(staging / name):
            safetensors.torch.save_file(state, staging / name, metadata={"format": "pt"})
        if variant and (folder / "config.json").is_file():
            _require_same_config(folder / "config.json", staging / "config.json")
            os.replace(staging / name, folder / name)
        elif folder.is_dir():
            (folder / "config.json").unlink(missing_ok=True)
            for old in folder.glob(f"{WEIGHTS_NAME}*"):
                old.unlink()
            os.replace(staging / name, folder / name)
            os.replace(staging / "config.json", folder / "config.json")
        else:
            os.rename(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _require_same_config(old: Path, new: Path) -> None:
    """Raise unless two config.json describe the same VAE; keys of diffusers' own (`_diffusers_version`) may differ."""
    theirs, ours = read_json(old), read_json(new)
    fields = sorted(key for key in theirs.keys() | ours.keys() if not key.startswith("_"))
    differing = [
        f"{key} {theirs.get(key)!r} there, {ours.get(key)!r} here" for key in fields if theirs.get(key) != ours.get(key)
    ]
    if differing:
        raise ValueError(
            f"{old} describes another VAE ({some(differing, 3)}); save this one without a variant first, or elsewhere"
        )
