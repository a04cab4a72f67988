"""What each pipeline of diffusers reads from its VAE's config, and what it takes for granted.

Read from the sources of diffusers 0.42; a test holds every row against the sources of the version that is installed.
Decoding is `z / scaling_factor` everywhere, plus `shift_factor` where it is read, and
`z * latents_std / scaling_factor + latents_mean` in SDXL where both are set; encoding is the inverse.
Nobody reads `latent_channels` before it is too late.
"""

from dataclasses import dataclass
from typing import Any

from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class PipelineFacts:
    """One row of the table."""

    denoiser: str
    """The component that works on the latents."""
    inputs: tuple[tuple[int, int], ...]
    """(a, b) for each way of feeding it: its in_channels are a * latent channels + b. Inpainting networks take noisy
    latents, the masked picture's latents and a mask; FLUX packs 2 x 2 latents into one."""
    shift: bool
    """Whether `shift_factor` is read; None then raises TypeError. Otherwise it is ignored."""
    per_channel: str
    """Whether `latents_mean` and `latents_std` are "read", "ignored", or read "only to decode"; always for 4 channels."""
    upcasts: bool
    """Whether a float16 VAE with `force_upcast` runs in float32. Elsewhere `force_upcast` is ignored."""
    casts: bool
    """Whether latents are cast to the VAE's type. Otherwise the VAE must have the denoiser's type."""


_SAME, _INPAINT, _PACKED = ((1, 0),), ((1, 0), (2, 1)), ((4, 0),)

# fmt: off
FACTS: dict[str, PipelineFacts] = {
    #                                                      denoiser       inputs    shift  per channel       upcasts casts
    "StableDiffusionPipeline":               PipelineFacts("unet",        _SAME,    False, "ignored",        False, False),
    "StableDiffusionImg2ImgPipeline":        PipelineFacts("unet",        _SAME,    False, "ignored",        False, False),
    "StableDiffusionInpaintPipeline":        PipelineFacts("unet",        _INPAINT, False, "ignored",        False, False),
    "StableDiffusionControlNetPipeline":     PipelineFacts("unet",        _SAME,    False, "ignored",        False, False),
    "StableDiffusionXLPipeline":             PipelineFacts("unet",        _SAME,    False, "read",           True,  False),
    "StableDiffusionXLImg2ImgPipeline":      PipelineFacts("unet",        _SAME,    False, "read",           True,  False),
    "StableDiffusionXLInpaintPipeline":      PipelineFacts("unet",        _INPAINT, False, "only to decode", True,  False),
    "StableDiffusionXLControlNetPipeline":   PipelineFacts("unet",        _SAME,    False, "read",           True,  False),
    "StableDiffusion3Pipeline":              PipelineFacts("transformer", _SAME,    True,  "ignored",        False, False),
    "StableDiffusion3Img2ImgPipeline":       PipelineFacts("transformer", _SAME,    True,  "ignored",        False, False),
    "StableDiffusion3InpaintPipeline":       PipelineFacts("transformer", _INPAINT, True,  "ignored",        False, False),
    "FluxPipeline":                          PipelineFacts("transformer", _PACKED,  True,  "ignored",        False, False),
    "FluxImg2ImgPipeline":                   PipelineFacts("transformer", _PACKED,  True,  "ignored",        False, False),
    "FluxInpaintPipeline":                   PipelineFacts("transformer", _PACKED,  True,  "ignored",        False, False),
    "PixArtAlphaPipeline":                   PipelineFacts("transformer", _SAME,    False, "ignored",        False, False),
    "PixArtSigmaPipeline":                   PipelineFacts("transformer", _SAME,    False, "ignored",        False, True),
    "DiTPipeline":                           PipelineFacts("transformer", _SAME,    False, "ignored",        False, False),
}
# fmt: on

PER_CHANNEL_SIZE = 4
"""SDXL's pipelines view latents_mean and latents_std as 1 x 4 x 1 x 1, whatever the VAE has."""


def facts_of(pipe: DiffusionPipeline) -> PipelineFacts | None:
    """The row of a pipeline's class, or of the nearest class that it derives from; None if it is in no row."""
    rows = (FACTS.get(kind.__name__) for kind in type(pipe).__mro__)
    return next((row for row in rows if row is not None), None)


def denoiser_of(pipe: DiffusionPipeline) -> tuple[str, Any] | None:
    """Name and module of the network that works on the latents; None if the pipeline has none, or it is not loaded."""
    for name in ("unet", "transformer"):
        if getattr(pipe, name, None) is not None:
            return name, getattr(pipe, name)
    return None
