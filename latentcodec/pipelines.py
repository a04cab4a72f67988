"""Put another VAE into a diffusers pipeline: checks first, then the swap.

`pipe.vae = vae` checks nothing, leaves `vae_scale_factor` and the image processors as the old VAE had them, and fails
late, in the decoder, or not at all: with the wrong colours.
"""

import contextlib
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ConfigMixin, DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from latentcodec.images.pixels import to_tensor
from latentcodec.pipeline_checks import Findings, check_config, check_float16, chosen_dtype, downsampling, pipeline_name
from latentcodec.pipeline_facts import facts_of
from latentcodec.scaling import Scaling
from latentcodec.vae.families import guess_family
from latentcodec.vae.fingerprint import weights_fingerprint
from latentcodec.vae.geometry import empty_vae
from latentcodec.vae.loading import load_vae
from latentcodec.vae.ranges import ActivationRanges, in_float32, measure_ranges, probe_images
from latentcodec.vae.weights import plain_state

CLOSE = 0.1
"""Latents that differ by less than this, relative to their own spread, are called close to those of the old VAE."""


class SwapError(ValueError):
    """The VAE does not work in the pipeline, which is left as it was. The message names both values and the remedy."""


class SwapWarning(UserWarning):
    """The swap was made, and pictures are likely not what is wanted. The message says why."""


@dataclass(frozen=True)
class SwapReport:
    """What was swapped, and what differs now. `print` it for people."""

    pipeline: str
    """The class of the pipeline."""
    known: bool
    """Whether this library knows what that class reads; if not, only the general checks were made."""
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """What differs about the VAE, old value and new: family, fingerprint, keys of the config, dtype."""
    refreshed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """What the pipeline had computed from the old VAE, old value and new."""
    latent_difference: float | None = None
    """Root mean square difference between new and old scaled latents of an image, relative to the old ones' spread:
    0 for the same latents, 1.4 and more for unrelated ones. None where they cannot be compared."""
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ranges: ActivationRanges | None = None
    """Measured activations, if the VAE is to run in float16."""

    def __str__(self) -> str:
        lines = [f"{self.pipeline}: VAE swapped"]
        for title, values in (("VAE", self.changes), ("refreshed", self.refreshed)):
            lines += [f"  {title} {name}: {old} -> {new}" for name, (old, new) in values.items()]
        if self.latent_difference is not None:
            lines.append(f"  latents differ from the old VAE's by {self.latent_difference:.3f} (0 same, 1.4 unrelated)")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines + [f"  warning: {warning}" for warning in self.warnings])


def swap_vae(
    pipe: DiffusionPipeline,
    vae: nn.Module | str | Path,
    *,
    image: UInt8[np.ndarray, "height width 3"] | None = None,
    dtype: torch.dtype | None = None,
    allow_other_factor: bool = False,
) -> SwapReport:
    """Check a VAE against a pipeline, put it there, and refresh what the pipeline had computed from the old one.

    Checked are the latent channels against the denoiser's, the spatial factor, the scaling that this pipeline reads or
    ignores, the dtype, and in float16 the range of the activations, measured. The VAE goes to the device of the old
    one, takes over its tiling and slicing, and is `pipe.vae` afterwards, also where it was given as a network.

    Args:
        pipe: a diffusers pipeline with a component `vae`.
        vae: an AutoencoderKL, or a source for `load_vae`. For a file that does not say its scaling factor, load it
            first: `load_vae(file, scaling_factor=...)`.
        image: RGB, for what is measured; sides multiples of the factor. A synthetic one of 256 x 256 pixels if None.
        dtype: type of the VAE in the pipeline; if None, the one that works there.
        allow_other_factor: accept another spatial factor than that of the old VAE.

    Raises:
        SwapError: the VAE does not work in this pipeline. Nothing was changed.
        VAELoadError: `vae` names a source that cannot be loaded.

    Warns:
        SwapWarning: for each entry of the report's `warnings`.
    """
    old = _present_vae(pipe)
    if isinstance(vae, str | Path):
        vae = load_vae(vae, device="cpu" if old is None else old.device)
    elif not isinstance(vae, AutoencoderKL):
        raise SwapError(f"vae: expected an AutoencoderKL or a source for load_vae, found {type(vae).__name__}")
    target, found = chosen_dtype(pipe, vae, dtype)
    found = _merged(check_config(pipe, vae, allow_other_factor=allow_other_factor), found)
    _refuse(pipe, found)

    pixels = next(probe_images()) if image is None else to_tensor(image)[None]
    ranges = measure_ranges(vae, [pixels]) if target == torch.float16 else None
    if ranges is not None:
        found = _merged(found, check_float16(pipe, vae, ranges))
        _refuse(pipe, found)
    difference, compared = _compare_latents(old, vae, pixels)
    found = _merged(found, compared)
    changes = _changes(old, vae, target)

    _move(vae, old, target)
    pipe.register_modules(vae=vae)
    report = SwapReport(
        pipeline=pipeline_name(pipe),
        known=facts_of(pipe) is not None,
        changes=changes,
        refreshed=_refresh(pipe),
        latent_difference=difference,
        warnings=found.warnings,
        notes=found.notes,
        ranges=ranges,
    )
    for sentence in report.warnings:
        warnings.warn(sentence, SwapWarning, stacklevel=2)
    return report


def _present_vae(pipe: DiffusionPipeline) -> AutoencoderKL | None:
    """The pipeline's VAE if it is an AutoencoderKL."""
    if "vae" not in pipe.components:
        raise SwapError(
            f"{pipeline_name(pipe)} has no component vae, but {', '.join(sorted(pipe.components))}; there is nothing to swap"
        )
    if hasattr(pipe.vae, "_hf_hook"):
        raise SwapError(
            f"{pipeline_name(pipe)} moves its models between devices (offloading or a device_map), and a new VAE would not "
            "take part; call pipe.remove_all_hooks(), swap, then turn it on again"
        )
    return pipe.vae if isinstance(pipe.vae, AutoencoderKL) else None


def _merged(first: Findings, second: Findings) -> Findings:
    return Findings(first.problems + second.problems, first.warnings + second.warnings, first.notes + second.notes)


def _refuse(pipe: DiffusionPipeline, found: Findings) -> None:
    if found.problems:
        raise SwapError(f"this VAE does not work in {pipeline_name(pipe)}: {'. Also: '.join(found.problems)}")


def _changes(old: AutoencoderKL | None, new: AutoencoderKL, dtype: torch.dtype) -> dict[str, tuple[Any, Any]]:
    """What differs between the VAEs, old value and new."""

    def told(vae: AutoencoderKL, dtype: torch.dtype) -> dict[str, Any]:
        config = {name: value for name, value in vae.config.items() if not name.startswith("_")}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
        return {"family": guess_family(vae.config), "fingerprint": weights_fingerprint(vae), "dtype": dtype} | plain

    before = {} if old is None else told(old, old.dtype)
    after = told(new, dtype)
    return {name: (before.get(name), value) for name, value in after.items() if before.get(name) != value}


def _compare_latents(
    old: AutoencoderKL | None, new: AutoencoderKL, pixels: Float[Tensor, "1 3 height width"]
) -> tuple[float | None, Findings]:
    """How far the new VAE's scaled latents are from those that the denoiser knows."""
    findings = Findings()
    if old is None or downsampling(old) != downsampling(new):
        findings.warnings.append(
            "the latents cannot be compared with those that the denoiser was trained on; it must be one for this VAE"
        )
        return None, findings
    before, after = _scaled_latents(old, pixels), _scaled_latents(new, pixels)
    if before.shape != after.shape:  # a denoiser that was loaded for other channels than the old VAE's
        findings.warnings.append(
            f"the old VAE's latents have {before.shape[1]} channels, the new one's {after.shape[1]}"
        )
        return None, findings
    difference = ((after - before).square().mean().sqrt() / before.std()).item()
    same_encoder = _encoder_fingerprint(old) == _encoder_fingerprint(new)
    if difference == 0 and same_encoder:
        findings.notes.append("the encoder and the scaling are those of the old VAE: only the decoder is another")
    elif same_encoder:
        findings.warnings.append(
            "the encoder is that of the old VAE, but its latents are scaled otherwise "
            f"(scaling_factor {old.config.scaling_factor:g} -> {new.config.scaling_factor:g}, shift_factor "
            f"{old.config.shift_factor} -> {new.config.shift_factor}); the denoiser expects the old scaling"
        )
    elif difference > CLOSE:
        findings.warnings.append(
            f"the latents are not those of the old VAE (difference {difference:.2f}, 0 the same, 1.4 unrelated; standard "
            f"deviation {before.std():.2f} -> {after.std():.2f}); the denoiser must be trained on the new ones first"
        )
    return difference, findings


@torch.no_grad()
def _scaled_latents(vae: AutoencoderKL, pixels: Tensor) -> Float[Tensor, "1 channels height width"]:
    """The posterior's mean of an image, scaled by everything in the config, in float32 on the CPU."""
    with in_float32(vae), torch.autocast(vae.device.type, enabled=False):
        return Scaling.of(vae.config).apply(vae.encode(pixels.to(vae.device)).latent_dist.mean.cpu())


def _encoder_fingerprint(vae: AutoencoderKL) -> str:
    return weights_fingerprint(
        {name: value for name, value in plain_state(vae).items() if name.startswith(("encoder.", "quant_conv."))}
    )


def _move(vae: AutoencoderKL, old: AutoencoderKL | None, dtype: torch.dtype) -> None:
    """Give the VAE its type, and the old one's place and switches."""
    nn.Module.to(vae, dtype=dtype, device=vae.device if old is None else old.device)
    vae.eval()
    for switch in ("tiling", "slicing"):
        if old is not None and getattr(old, f"use_{switch}"):
            getattr(vae, f"enable_{switch}")()


def _refresh(pipe: DiffusionPipeline) -> dict[str, tuple[Any, Any]]:
    """Recompute whatever the pipeline's `__init__` derives from the VAE; returns old and new values.

    Which attributes those are is found out by building the pipeline from its own components twice, with this VAE and
    with one of another factor and other channels: what comes out different depends on the VAE. Settings of an image
    processor that do not depend on it, such as the resampling filter, stay as they are.
    """
    config = dict(pipe.vae.config)
    levels = len(config["block_out_channels"]) + 1
    other = config | {
        "block_out_channels": (config["norm_num_groups"],) * levels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "latent_channels": config["latent_channels"] + 1,
    }
    fresh, probe = _rebuilt(pipe, pipe.vae), _rebuilt(pipe, empty_vae(other))
    refreshed = {}
    for name, value in fresh.items():
        present = getattr(pipe, name, None)
        if isinstance(value, ConfigMixin) and isinstance(present, type(value)):
            for key, setting in value.config.items():
                if setting != probe[name].config[key] and setting != present.config[key]:
                    refreshed[f"{name}.{key}"] = (present.config[key], setting)
                    present.register_to_config(**{key: setting})
        elif isinstance(value, _PLAIN) and value != probe[name] and value != present:
            refreshed[name] = (present, value)
            setattr(pipe, name, value)
    return refreshed


_PLAIN = (int, float, str, tuple, list)  # other attributes are objects that any two pipelines have one each of


def _rebuilt(pipe: DiffusionPipeline, vae: AutoencoderKL) -> dict[str, Any]:
    """The attributes, other than components, of a pipeline with the same components but this VAE."""
    accepted = inspect.signature(type(pipe).__init__).parameters
    settings = {name: value for name, value in pipe.config.items() if name in accepted and name not in pipe.components}
    with _quiet():
        twin = type(pipe)(**(pipe.components | {"vae": vae}), **settings)
    return {name: value for name, value in vars(twin).items() if name[0] != "_" and name not in pipe.components}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No advice from pipelines that are built only to be looked at."""
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity(diffusers_logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        diffusers_logging.set_verbosity(level)
