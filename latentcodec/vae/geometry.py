"""The geometry of a VAE: its config from the shapes of its tensors, and an empty network from its config."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from latentcodec.vae.stored import Shaped, VAELoadError, count_indexed

if TYPE_CHECKING:
    import diffusers

LDM_NORM_GROUPS = 32  # latent-diffusion's Normalize() knows no other number


def empty_vae(config: Mapping[str, Any]) -> "diffusers.AutoencoderKL":
    """The network of a config on torch's meta device: names and shapes without storage, made in milliseconds."""
    import torch
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        return AutoencoderKL.from_config(dict(config))


def infer_config(state: Mapping[str, Shaped], *, norm_num_groups: int | None = None) -> dict[str, Any]:
    """The AutoencoderKL config of tensors in today's diffusers names, as far as shapes tell it.

    Shapes do not tell the number of norm groups: without `norm_num_groups` it is LDM's 32. Nor do they tell the
    scale, so `scaling_factor` and `shift_factor` are absent from the result. `sample_size` (the tile) is set to 512
    and `force_upcast` to True, the careful choice.

    Raises:
        VAELoadError: a tensor that the geometry is read from is absent, or the groups do not divide the widths.
    """
    levels = count_indexed(state, r"encoder\.down_blocks\.(\d+)\.")
    widths = tuple(_shape(state, f"encoder.down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(levels))
    groups = LDM_NORM_GROUPS if norm_num_groups is None else norm_num_groups
    if not widths or any(width % groups for width in widths):
        raise VAELoadError(
            f"the widths of the levels are {widths}, which {groups} norm groups do not divide; the shapes of the "
            "tensors do not tell the number of groups, so pass it as norm_num_groups="
        )
    down = ["AttnDownEncoderBlock2D" if _attends(state, f"encoder.down_blocks.{i}") else "DownEncoderBlock2D"
            for i in range(levels)]  # fmt: skip
    up = ["AttnUpDecoderBlock2D" if _attends(state, f"decoder.up_blocks.{i}") else "UpDecoderBlock2D"
          for i in range(levels)]  # fmt: skip
    return {
        "in_channels": _shape(state, "encoder.conv_in.weight")[1],
        "out_channels": _shape(state, "decoder.conv_out.weight")[0],
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "block_out_channels": widths,
        "layers_per_block": count_indexed(state, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "act_fn": "silu",
        "latent_channels": _shape(state, "decoder.conv_in.weight")[1],
        "norm_num_groups": groups,
        "sample_size": 512,
        "force_upcast": True,
        "use_quant_conv": "quant_conv.weight" in state,
        "use_post_quant_conv": "post_quant_conv.weight" in state,
        "mid_block_add_attention": _attends(state, "encoder.mid_block"),
    }


def _attends(state: Mapping[str, Shaped], block: str) -> bool:
    return f"{block}.attentions.0.to_q.weight" in state


def _shape(state: Mapping[str, Shaped], key: str) -> tuple[int, ...]:
    if key not in state:
        raise VAELoadError(f"the tensor {key} is absent, so this is not a whole AutoencoderKL")
    return state[key].shape
