"""Load a VAE: from a diffusers folder, a hub name, a single file, or the short name of shipped weights."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from latentcodec.vae.blueprint import full_config, require_fit, tensor_shapes
from latentcodec.vae.geometry import empty_vae
from latentcodec.vae.saving import save_vae
from latentcodec.vae.sources import named, read_source, shipped_names
from latentcodec.vae.stored import VAELoadError
from latentcodec.vae.weights import cast_state, read_weights

__all__ = ["VAELoadError", "load_vae", "save_vae", "shipped_names"]


def load_vae(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    variant: str | None = None,
    revision: str | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    norm_num_groups: int | None = None,
) -> AutoencoderKL:
    """Load a VAE, in evaluation mode, with every tensor of the file in the network and every one of the network set.

    Args:
        source: the first of these that exists:

            - a diffusers folder (config.json and weights, also in shards), or a pipeline's folder with one in `vae/`;
            - a file of weights, .safetensors, or .ckpt, .bin, .pt, .pth without code, in LDM or diffusers names, with
              or without the prefix `first_stage_model.` or `vae.`. One named as in a diffusers folder
              (`diffusion_pytorch_model...`) is read with the config.json beside it;
            - the short name of shipped weights (`shipped_names()`);
            - `owner/name` on the Hugging Face hub, cached there after the first time.
        dtype: type of the weights; float32 if None, whatever the file holds.
        device: where the network goes.
        variant: "fp16" reads `diffusion_pytorch_model.fp16.safetensors` of a folder; None reads the plain file. A
            folder that lacks the one that was asked for is an error, never a reason to take the other.
        revision: branch, tag or commit on the hub.
        scaling_factor: latents = (moments - shift) * scaling_factor. A single file that `save_ldm` did not write does
            not say it, and no value is assumed: pass it. Given for another source, it replaces what is written there.
            A diffusers config without the key means 0.18215, as it does in diffusers.
        shift_factor: likewise; None keeps what the source says.
        norm_num_groups: likewise. For a single file that does not say it, LDM's 32 is taken.

    Raises:
        VAELoadError: nothing there, a damaged or unsafe file, a config that is no AutoencoderKL, missing or unexpected
            tensors, wrong shapes, values that are not finite, no scaling factor.
    """
    found = read_source(
        source,
        read_weights,
        variant=variant,
        revision=revision,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        norm_num_groups=norm_num_groups,
    )
    with named(found.label):
        config = full_config(found.config)
        require_fit(found.state, tensor_shapes(config))
        state = cast_state(found.state, torch.float32 if dtype is None else dtype)
    vae = empty_vae(config)
    vae.load_state_dict(state, strict=True, assign=True)
    return vae.to(device).eval()
