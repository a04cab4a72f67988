"""Whether a VAE works in a pipeline, told before it is put there: the config against what the pipeline reads."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline

from latentcodec.pipeline_facts import PER_CHANNEL_SIZE, PipelineFacts, denoiser_of, facts_of
from latentcodec.vae.ranges import ActivationRanges

FLOAT16_MARGIN = 4.0
"""Below float16's limit by less than this factor, an activation measured on a few images is called close to it."""


@dataclass
class Findings:
    """Sentences, each about one matter."""

    problems: list[str] = field(default_factory=list)
    """Reasons to refuse."""
    warnings: list[str] = field(default_factory=list)
    """What runs, but likely not as wanted."""
    notes: list[str] = field(default_factory=list)
    """What differs, or could not be checked."""


def downsampling(vae: AutoencoderKL) -> int:
    """Pixels per latent, along one side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def pipeline_name(pipe: DiffusionPipeline) -> str:
    """What sentences call it."""
    return type(pipe).__name__


def check_config(pipe: DiffusionPipeline, vae: AutoencoderKL, *, allow_other_factor: bool) -> Findings:
    """Everything that follows from the configs of the VAE, of the pipeline's present VAE and of its denoiser."""
    findings, facts, config = Findings(), facts_of(pipe), vae.config
    if facts is None:
        findings.notes.append(
            f"{pipeline_name(pipe)} is a class that this library does not know: channels and spatial factor were held "
            "against its present VAE, but not which of scaling_factor, shift_factor and latents_mean it reads"
        )
    _check_channels(pipe, facts, vae, findings)
    _check_factor(pipe, vae, findings, allow_other_factor)
    _check_scale(vae, findings)
    _check_shift(pipe, facts, config.shift_factor, findings)
    _check_per_channel(pipe, facts, vae, findings)
    return findings


def _check_channels(pipe: DiffusionPipeline, facts: PipelineFacts | None, vae: AutoencoderKL, out: Findings) -> None:
    config, name, old = vae.config, pipeline_name(pipe), pipe.vae
    if (config.in_channels, config.out_channels) != (3, 3):
        out.problems.append(
            f"the VAE takes images of {config.in_channels} channels and gives {config.out_channels}; {name} works on 3"
        )
    latents, denoiser = config.latent_channels, denoiser_of(pipe)
    if facts is not None and denoiser is not None:
        wanted = denoiser[1].config.in_channels
        if wanted not in [a * latents + b for a, b in facts.inputs]:
            fitting = sorted({(wanted - b) // a for a, b in facts.inputs if (wanted - b) % a == 0})
            out.problems.append(
                f"the VAE has {latents} latent channels, and the {denoiser[0]} of {name}, with {wanted} input channels, "
                f"works on latents of {' or '.join(map(str, fitting))}; choose a VAE with as many"
            )
    elif isinstance(old, AutoencoderKL):
        if latents != old.config.latent_channels:
            out.problems.append(
                f"the VAE has {latents} latent channels, the present one of {name} has {old.config.latent_channels}; "
                "choose a VAE with as many"
            )
    elif facts is None:
        out.problems.append(
            f"{name} is not known here and its present VAE is a {type(old).__name__}, no AutoencoderKL, so nothing tells "
            f"whether an AutoencoderKL with {latents} latent channels would fit"
        )
    else:
        out.notes.append(f"{name} has no {facts.denoiser} loaded: whether it takes {latents} channels is not checked")


def _check_factor(pipe: DiffusionPipeline, vae: AutoencoderKL, out: Findings, allow_other_factor: bool) -> None:
    old = downsampling(pipe.vae) if isinstance(pipe.vae, AutoencoderKL) else getattr(pipe, "vae_scale_factor", None)
    if old is None:
        out.notes.append(f"{pipeline_name(pipe)} has no VAE to compare the spatial factor {downsampling(vae)} with")
    elif old != downsampling(vae) and not allow_other_factor:
        out.problems.append(
            f"the VAE makes each side {downsampling(vae)} times smaller, the present one of {pipeline_name(pipe)} {old} "
            f"times, and its denoiser was trained on those latents; for one that is trained for {downsampling(vae)}, "
            "pass allow_other_factor=True"
        )


def _check_scale(vae: AutoencoderKL, out: Findings) -> None:
    scale = vae.config.scaling_factor
    if not isinstance(scale, int | float) or not math.isfinite(scale) or scale <= 0:
        out.problems.append(
            f"scaling_factor: expected a positive number, by which the pipeline divides the latents, found {scale!r}; "
            "measure it with latentcodec.vae.calibration (measure_latents, write_scaling)"
        )
    elif scale == 1 and vae.config.latents_std is None:
        out.warnings.append(
            "scaling_factor is 1.0, as if it had never been measured; a diffusion model expects latents of unit variance "
            "(measure_latents and write_scaling of latentcodec.vae.calibration)"
        )


def _check_shift(pipe: DiffusionPipeline, facts: PipelineFacts | None, shift: Any, out: Findings) -> None:
    name, old = pipeline_name(pipe), getattr(getattr(pipe.vae, "config", None), "shift_factor", None)
    remedy = (
        "measure it (measure_latents, then write_scaling with shift=True, of latentcodec.vae.calibration), or state that "
        "the latents are centred: vae.register_to_config(shift_factor=0.0)"
    )
    if facts is None:
        if shift is None and old is not None:
            out.problems.append(
                f"shift_factor is None, that of the present VAE of {name} is {old}; a pipeline that reads it fails on "
                f"None: {remedy}"
            )
        elif (shift or 0) != (old or 0):
            out.warnings.append(f"shift_factor is {shift}, that of the present VAE {old}, and {name} may ignore it")
    elif facts.shift and shift is None:
        out.problems.append(f"shift_factor is None, and {name} adds it to the latents, which fails: {remedy}")
    elif not facts.shift and shift:
        instead = "" if facts.per_channel != "read" else (
            "; write it as latents_mean, which this pipeline reads: vae.register_to_config(shift_factor=None, "
            f"latents_mean=[{shift}] * {PER_CHANNEL_SIZE}, latents_std=[1.0] * {PER_CHANNEL_SIZE})"
        )  # fmt: skip
        out.problems.append(
            f"shift_factor is {shift}, and {name} ignores it, so that every latent would be off by it"
            f"{instead or '; calibrate the VAE without a shift (write_scaling of latentcodec.vae.calibration)'}"
        )


def _check_per_channel(pipe: DiffusionPipeline, facts: PipelineFacts | None, vae: AutoencoderKL, out: Findings) -> None:
    mean, std, name = vae.config.latents_mean, vae.config.latents_std, pipeline_name(pipe)
    if mean is None and std is None:
        return
    told = "latents_mean and latents_std are set"
    remedy = "calibrate the VAE with one scaling_factor instead (write_scaling of latentcodec.vae.calibration)"
    if (mean is None) != (std is None):
        one, other = ("latents_std", "latents_mean") if mean is None else ("latents_mean", "latents_std")
        out.problems.append(f"{one} is set but {other} is None, and pipelines read both or none; set both or none")
    elif facts is None:
        out.warnings.append(f"{told}, and {name} may ignore them")
    elif facts.per_channel == "ignored":
        out.problems.append(f"{told}, and {name} ignores them; {remedy}")
    elif facts.per_channel == "only to decode":
        out.problems.append(f"{told}, and {name} reads them to decode but ignores them to encode; {remedy}")
    elif len(mean) != PER_CHANNEL_SIZE or len(std) != PER_CHANNEL_SIZE:
        out.problems.append(
            f"{told} for {len(mean)} channels, and {name} views them as {PER_CHANNEL_SIZE} whatever the VAE has; {remedy}"
        )


def chosen_dtype(
    pipe: DiffusionPipeline, vae: AutoencoderKL, dtype: torch.dtype | None
) -> tuple[torch.dtype, Findings]:
    """The type that the VAE is to have in the pipeline: the one asked for, else one that works there."""
    findings, facts, denoiser = Findings(), facts_of(pipe), denoiser_of(pipe)
    present = pipe.vae.dtype if pipe.vae is not None else vae.dtype
    plain = denoiser is not None and getattr(denoiser[1], "hf_quantizer", None) is None
    if facts is None or facts.casts or denoiser is None or not plain:
        return dtype or present, findings
    needed = denoiser[1].dtype
    if dtype is not None and dtype != needed:
        findings.problems.append(
            f"dtype is {dtype}, the {denoiser[0]} has {needed}, and {pipeline_name(pipe)} does not cast the latents "
            "between them; leave dtype out, or convert the whole pipeline with pipe.to(dtype)"
        )
    return needed, findings


def check_float16(pipe: DiffusionPipeline, vae: AutoencoderKL, ranges: ActivationRanges) -> Findings:
    """What becomes of measured activations when this VAE runs in float16 in this pipeline."""
    findings, facts, peak = Findings(), facts_of(pipe), ranges.largest
    limit = torch.finfo(torch.float16).max
    told = f"the largest activation is {peak.value:.4g} in {peak.module}, float16 ends at {limit:.0f}"
    fits = ranges.fits(torch.float16) and ranges.rms_levels["float16"] is not None
    if facts is not None and facts.upcasts and vae.config.force_upcast:
        if vae.post_quant_conv is None:
            findings.problems.append(
                f"force_upcast is True and the VAE has no post_quant_conv, from which {pipeline_name(pipe)} takes the type "
                "to upcast to; set force_upcast=False if float16 is wide enough "
                f"({told}), or convert the pipeline to bfloat16 or float32"
            )
        else:
            safe = "; it would also fit float16, with force_upcast=False" if fits else ""
            findings.notes.append(f"{pipeline_name(pipe)} runs this VAE in float32 (force_upcast): {told}{safe}")
    elif not fits:
        remedy = "convert the pipeline to bfloat16 or float32"
        if facts is not None and facts.upcasts and vae.post_quant_conv is not None:
            remedy = "set force_upcast=True, for which this pipeline runs the VAE in float32"
        findings.problems.append(f"in float16 pictures would be black (NaN): {told}; {remedy}")
    elif peak.value * FLOAT16_MARGIN > limit:
        findings.warnings.append(f"float16 is close to overflow: {told}, and other images may go further")
    return findings
