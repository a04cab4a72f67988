"""`latentcodec convert`: between diffusers folders and single files."""

from pathlib import Path
from typing import Literal

from latentcodec.commands import CommandError


def convert_vae(
    source: str,
    destination: str,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    prefix: Literal["", "first_stage_model.", "vae."] = "",
    variant: str | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    norm_num_groups: int | None = None,
) -> None:
    """Convert a VAE to a single file for ComfyUI and A1111, or to a diffusers folder.

    A destination that ends in .safetensors becomes a single file with the tensor names of latent-diffusion (LDM);
    any other becomes a folder.

    Example:
        latentcodec convert out/vae vae.safetensors --dtype float16
        latentcodec convert vae.safetensors out/vae --scaling-factor 0.18215

    Args:
        source: A diffusers folder, a file of weights or a name on the Hugging Face hub.
        destination: The folder or .safetensors file to write. It must not exist yet.
        dtype: Type of the stored values.
        prefix: What comes before the names in a single file: nothing, for a VAE on its own.
        variant: Read the weights of this variant of a folder, for example fp16.
        scaling_factor: Scaling factor of the latents, for a single file that does not say it.
        shift_factor: Shift factor of the latents, likewise.
        norm_num_groups: Groups of every GroupNorm, likewise; 32 if not given.
    """
    path = Path(destination)
    if path.exists():
        raise CommandError(f"{destination} exists already; delete it or name another destination")
    if path.suffix in {".ckpt", ".bin", ".pt", ".pth"}:
        raise CommandError(f"{destination}: pickles are read but not written; name a .safetensors file or a folder")
    if prefix and path.suffix != ".safetensors":
        raise CommandError(f"{destination}: a diffusers folder has no prefix, found {prefix!r}; leave it out")

    import torch

    from latentcodec.vae.ecosystems import ecosystems
    from latentcodec.vae.ldm import save_ldm
    from latentcodec.vae.loading import load_vae, save_vae

    network = load_vae(
        source,
        dtype=getattr(torch, dtype),
        variant=variant,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        norm_num_groups=norm_num_groups,
    )
    if path.suffix == ".safetensors":
        save_ldm(network, path, prefix)
    else:
        save_vae(network, path)
    print(f"wrote {destination}")
    for program, reason in ecosystems(network.config).items():
        if reason is not None:
            print(f"note: {program} cannot load this VAE: {reason}")
