"""Every family of diffusers pipelines from small random parts: no downloads, no tokenizers, milliseconds a step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor

from latentcodec.vae.presets import build_vae

SIDE = 8  # of the latents
WIDTH = 16  # of text embeddings
ATTENTION = {"attention_head_dim": 8, "num_attention_heads": 2, "num_layers": 1}


def small_vae(levels: int = 4, **overrides: Any) -> AutoencoderKL:
    """f8 by default, 4 latent channels, Stable Diffusion's scaling factor, a few thousand weights."""
    widths = {"block_out_channels": (8,) * levels, "norm_num_groups": 4}
    return build_vae("tiny-f8d4", **(widths | {"scaling_factor": 0.18215} | overrides)).eval()


def small_unet(channels: int, inputs: int | None = None, **overrides: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=inputs or channels,
        out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        **overrides,
    )


def _stable_diffusion(kind: type[DiffusionPipeline], inputs: int | None = None) -> Callable[[], DiffusionPipeline]:
    def build() -> DiffusionPipeline:
        names = ("text_encoder", "tokenizer", "safety_checker", "feature_extractor")
        unet, vae = small_unet(4, inputs), small_vae()
        nothing = dict.fromkeys(names)
        return kind(unet=unet, vae=vae, scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
                    requires_safety_checker=False, **nothing)  # fmt: skip

    return build


def _sdxl(kind: type[DiffusionPipeline]) -> Callable[[], DiffusionPipeline]:
    def build() -> DiffusionPipeline:
        extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
        nothing = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
        unet = small_unet(4, **extra, projection_class_embeddings_input_dim=6 * 4 + WIDTH)
        scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
        return kind(
            unet=unet, vae=small_vae(scaling_factor=0.13025), scheduler=scheduler, add_watermarker=False, **nothing
        )

    return build


def _sd3() -> DiffusionPipeline:
    transformer = SD3Transformer2DModel(
        sample_size=SIDE, patch_size=2, in_channels=16, out_channels=16, joint_attention_dim=WIDTH,
        caption_projection_dim=16, pooled_projection_dim=WIDTH, pos_embed_max_size=SIDE, **ATTENTION,
    )  # fmt: skip
    names = [f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")]
    vae = small_vae(latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609)
    scheduler = FlowMatchEulerDiscreteScheduler()
    return StableDiffusion3Pipeline(transformer=transformer, vae=vae, scheduler=scheduler, **dict.fromkeys(names))


def _flux() -> DiffusionPipeline:
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    vae = small_vae(latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159)
    scheduler = FlowMatchEulerDiscreteScheduler()
    return FluxPipeline(transformer=transformer, vae=vae, scheduler=scheduler, **dict.fromkeys(names))


def _pixart() -> DiffusionPipeline:
    transformer = PixArtTransformer2DModel(
        sample_size=SIDE, patch_size=2, in_channels=4, out_channels=8, cross_attention_dim=16, caption_channels=WIDTH,
        use_additional_conditions=False, **ATTENTION,
    )  # fmt: skip
    parts = {"vae": small_vae(scaling_factor=0.13025), "scheduler": DDIMScheduler(), "transformer": transformer}
    return PixArtSigmaPipeline(tokenizer=None, text_encoder=None, **parts)


def _dit() -> DiffusionPipeline:
    transformer = DiTTransformer2DModel(
        sample_size=SIDE, patch_size=2, in_channels=4, out_channels=8, num_embeds_ada_norm=1000, **ATTENTION
    )
    return DiTPipeline(
        transformer=transformer, vae=small_vae(), scheduler=DDIMScheduler(), id2label={0: "carp, fish", 1: "cat"}
    )


def _unpacked(latents: Tensor) -> Tensor:
    """FLUX's rows of 2 x 2 x channels values, as batch x channels x height x width."""
    side = int(latents.shape[1] ** 0.5)
    grid = latents.reshape(len(latents), side, side, -1, 2, 2)  # row, column, channel, row and column in the patch
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(latents), -1, 2 * side, 2 * side)


@dataclass(frozen=True)
class SmallFamily:
    """How to build a pipeline, and how to run it on random embeddings."""

    build: Callable[[], DiffusionPipeline]
    channels: int = 4
    pooled: bool = False
    mask: bool = False
    image: bool = False
    inpaint: bool = False
    latents: Callable[[Tensor], Tensor] = lambda latents: latents
    """What `output_type="latent"` gives, as batch x channels x height x width."""

    def run(self, pipe: DiffusionPipeline, output_type: str) -> Tensor:
        """Two steps from a fixed seed."""
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        denoiser = (getattr(pipe, "unet", None) or pipe.transformer).eval()  # DiT drops class labels in training
        options: dict[str, Any] = {"generator": generator, "guidance_scale": 1.0, "num_inference_steps": 2}
        if isinstance(pipe, DiTPipeline):
            return pipe(class_labels=[1], output_type=output_type, **options).images
        embeddings = torch.randn(1, 5, WIDTH, generator=generator).to(denoiser.dtype)
        options |= {"prompt_embeds": embeddings}
        if self.pooled:
            options |= {"pooled_prompt_embeds": embeddings[:, 0]}
        if self.mask:
            options |= {
                "prompt_attention_mask": torch.ones(1, 5),
                "negative_prompt": None,
                "use_resolution_binning": False,
            }
        pixels = SIDE * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
        if self.image:
            options |= {"image": torch.rand(1, 3, pixels, pixels, generator=generator), "strength": 1.0}
        if self.inpaint:
            options |= {"mask_image": torch.ones(1, 1, pixels, pixels)}
        if self.image and not self.inpaint:
            return pipe(output_type=output_type, **options).images
        return pipe(output_type=output_type, height=pixels, width=pixels, **options).images


SMALL_FAMILIES = {
    "sd": SmallFamily(_stable_diffusion(StableDiffusionPipeline)),
    "sd img2img": SmallFamily(_stable_diffusion(StableDiffusionImg2ImgPipeline), image=True),
    "sd inpaint": SmallFamily(_stable_diffusion(StableDiffusionInpaintPipeline, inputs=9), image=True, inpaint=True),
    "sdxl": SmallFamily(_sdxl(StableDiffusionXLPipeline), pooled=True),
    "sdxl img2img": SmallFamily(_sdxl(StableDiffusionXLImg2ImgPipeline), pooled=True, image=True),
    "sd3": SmallFamily(_sd3, channels=16, pooled=True),
    "flux": SmallFamily(_flux, channels=16, pooled=True, latents=_unpacked),
    "pixart": SmallFamily(_pixart, mask=True),
    "dit": SmallFamily(_dit),
}
