"""Which programs can load a VAE of a given geometry. Reads the config only; imports no torch."""

from collections.abc import Mapping
from typing import Any

# ComfyUI (class VAE of comfy/sd.py) and AUTOMATIC1111 (modules/sd_vae.py) build their own network with these numbers
# and copy the tensors into it. What a file does not say in its shapes, such as the norm groups, is not looked up.
_SD_WIDTHS = (128, 256, 512, 512)
_UPSCALER_WIDTHS = (128, 256, 512)
_LDM_GROUPS = 32


def _stable_diffusion_blocks(config: Mapping[str, Any], widths: tuple[tuple[int, ...], ...]) -> list[str]:
    """What keeps `config` from fitting the encoder and decoder of Stable Diffusion, in words; empty if it fits."""
    reasons = []
    if tuple(config["block_out_channels"]) not in widths:
        expected = " or ".join(str(w) for w in widths)
        reasons.append(f"the widths are fixed at {expected}, not {tuple(config['block_out_channels'])}")
    if config["norm_num_groups"] != _LDM_GROUPS:
        reasons.append(f"the norm groups are fixed at {_LDM_GROUPS}, not {config['norm_num_groups']}")
    if config["layers_per_block"] != 2:
        reasons.append(f"two residual blocks a level are built, not {config['layers_per_block']}")
    if any("Attn" in block for block in (*config["down_block_types"], *config["up_block_types"])):
        reasons.append("no attention is built inside the levels")
    if not config["mid_block_add_attention"]:
        reasons.append("attention in the middle block is always built")
    if (config["in_channels"], config["out_channels"]) != (3, 3):
        reasons.append(f"images have 3 channels, not {config['in_channels']} in and {config['out_channels']} out")
    return reasons


def _comfyui(config: Mapping[str, Any]) -> list[str]:
    reasons = _stable_diffusion_blocks(config, (_SD_WIDTHS, _UPSCALER_WIDTHS))
    if config["use_quant_conv"] != config["use_post_quant_conv"]:
        reasons.append("quant_conv and post_quant_conv are both there or both absent")
    if config["latent_channels"] == 64:
        reasons.append("64 latent channels are taken for another family's VAE")
    return reasons


def _a1111(config: Mapping[str, Any]) -> list[str]:
    reasons = _stable_diffusion_blocks(config, (_SD_WIDTHS,))
    if config["latent_channels"] != 4:
        reasons.append(f"latents have 4 channels, not {config['latent_channels']}")
    if not (config["use_quant_conv"] and config["use_post_quant_conv"]):
        reasons.append("quant_conv and post_quant_conv must be there")
    return reasons


def ecosystems(config: Mapping[str, Any]) -> dict[str, str | None]:
    """Which programs load a VAE with this config: None if one does, else why it does not.

    `config` is a whole AutoencoderKL config (`vae.config`, or `Preset.config()`). diffusers reads the config and so
    loads every geometry. ComfyUI and AUTOMATIC1111 read a single file in LDM names (`save_ldm`) and hard-wire the
    rest. "Loads" says that the tensors fit; whether a diffusion model was trained on these latents is another matter.
    """
    checks = {"diffusers": [], "ComfyUI": _comfyui(config), "A1111": _a1111(config)}
    return {name: "; ".join(reasons) or None for name, reasons in checks.items()}
