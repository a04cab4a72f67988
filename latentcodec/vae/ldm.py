"""Names and shapes of a VAE's tensors: latent-diffusion (LDM, CompVis) single files <-> diffusers, both ways.

ComfyUI, AUTOMATIC1111 and the original checkpoints of Stable Diffusion and FLUX.1 use LDM's names. The two differ in
three ways: names; the decoder's levels, which LDM counts from the image's side and diffusers from the latents' side;
and the projections of attention, which are 1x1 convolutions there and linear layers here.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentcodec.vae.fingerprint import weights_fingerprint
from latentcodec.vae.stored import Shaped, T, VAELoadError, count_indexed, some

if TYPE_CHECKING:
    import diffusers
    import torch

PREFIXES = ("", "first_stage_model.", "vae.")  # a VAE on its own; in checkpoints of SD; in all-in-one files

# Leaves of a module, diffusers -> LDM. Other leaves have one name.
_RESNET = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"conv_shortcut": "nin_shortcut"}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # diffusers before 0.15
_PROJECTION = re.compile(r"\.attentions\.\d+\.(to_q|to_k|to_v|to_out\.0)\.weight$")


def diffusers_to_ldm(state: Mapping[str, T], prefix: str = "") -> dict[str, T]:
    """The tensors under their names and in their shapes in an LDM file, each behind `prefix`; values are untouched.

    Tensors are torch's, or `StoredTensor`s of a file that is only looked at.

    Raises:
        VAELoadError: a name that is none of AutoencoderKL's.
    """
    state = _todays_names(state)
    names = _names(state, r"encoder\.down_blocks\.(\d+)\.", r"decoder\.up_blocks\.\d+\.resnets\.(\d+)\.")
    _refuse_unknown(state, names)
    return {
        prefix + names[key]: value.reshape(*value.shape, 1, 1) if _PROJECTION.search(key) else value
        for key, value in state.items()
    }


def ldm_to_diffusers(state: Mapping[str, T]) -> dict[str, T]:
    """The tensors of an LDM file, prefix taken off, under their diffusers names and shapes; values are untouched.

    Raises:
        VAELoadError: a name that is none of LDM's AutoencoderKL.
    """
    pairs = _names(state, r"encoder\.down\.(\d+)\.", r"decoder\.up\.\d+\.block\.(\d+)\.")
    names = {ldm: diffusers for diffusers, ldm in pairs.items()}
    _refuse_unknown(state, names)
    return _todays_names({names[key]: value for key, value in state.items()})


def to_diffusers(state: Mapping[str, T]) -> dict[str, T]:
    """The VAE in a checkpoint, in today's diffusers names, from either naming and behind any of `PREFIXES`.

    Tensors of other models beside a prefixed VAE are left out, and so is `loss.` (the discriminator and LPIPS network
    of a training checkpoint).

    Raises:
        VAELoadError: no VAE under any prefix, several, or names inside it that do not belong to an AutoencoderKL.
    """
    found = [prefix for prefix in PREFIXES if f"{prefix}encoder.conv_in.weight" in state]
    if len(found) != 1:
        expected = ", ".join(f"{prefix}encoder.conv_in.weight" for prefix in PREFIXES)
        raise VAELoadError(
            f"expected one VAE, that is one of the tensors {expected}; found {len(found)} of them among "
            f"{len(state)} tensors ({some(sorted(state), 3)})"
        )
    inside = {key.removeprefix(found[0]): value for key, value in state.items() if key.startswith(found[0])}
    inside = {key: value for key, value in inside.items() if not key.startswith("loss.")}
    ldm = any(key.startswith("encoder.down.") for key in inside)  # diffusers has encoder.down_blocks.
    return ldm_to_diffusers(inside) if ldm else _todays_names(inside)


def save_ldm(
    vae: "diffusers.AutoencoderKL", path: str | Path, prefix: str = "", dtype: "torch.dtype | None" = None
) -> None:
    """Write one .safetensors file in LDM's names, whole or not at all.

    `ecosystems(vae.config)` says who can load it. Its header holds, beside safetensors' `format`, the whole config
    (scaling_factor, shift_factor, latent_channels, norm_num_groups, ...) and the fingerprint of the weights as they
    are stored, so `load_vae` recovers everything from the one file; other programs do not look there.

    Args:
        vae: the network, on any device.
        path: a file that ends in .safetensors; an old one is replaced, folders are made.
        prefix: one of `PREFIXES`; none for a VAE on its own.
        dtype: type of the stored values; that of the network if None.

    Raises:
        ValueError: another suffix or prefix.
        NonFiniteWeightsError: values that are NaN, infinite or out of the range of `dtype`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path: expected a file that ends in .safetensors, found {path}")
    if prefix not in PREFIXES:
        raise ValueError(f"prefix: expected one of {PREFIXES}, found {prefix!r}")
    import safetensors.torch

    from latentcodec.aside import written_aside
    from latentcodec.vae.weights import cast_state, plain_state

    state = cast_state(plain_state(vae), vae.dtype if dtype is None else dtype)
    metadata = _metadata(vae.config, weights_fingerprint(state))
    with written_aside(path) as aside:
        safetensors.torch.save_file(diffusers_to_ldm(state, prefix), aside, metadata=metadata)


def config_from_metadata(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The AutoencoderKL config in the header of a file of `save_ldm`; None if another program wrote the file."""
    if "latentcodec" not in metadata:
        return None
    return {key: json.loads(value) for key, value in metadata.items() if key not in _NOT_CONFIG}


_NOT_CONFIG = ("format", "latentcodec", "fingerprint")


def _metadata(config: Mapping[str, Any], fingerprint: str) -> dict[str, str]:
    fields = {key: json.dumps(value) for key, value in config.items() if not key.startswith("_")}
    return fields | {"format": "pt", "latentcodec": "1", "fingerprint": fingerprint}


def _names(state: Mapping[str, Shaped], level: str, layer: str) -> dict[str, str]:
    """Every name a network of this depth can have, diffusers -> LDM. The patterns capture a level's and a layer's
    number in the keys of `state`."""
    levels, layers = count_indexed(state, level), count_indexed(state, layer)
    modules = {name: name for name in ("quant_conv", "post_quant_conv")}

    def add(diffusers: str, ldm: str, leaves: Mapping[str, str]) -> None:
        modules.update({f"{diffusers}.{ours}": f"{ldm}.{theirs}" for ours, theirs in leaves.items()})

    for side in ("encoder", "decoder"):
        add(side, side, {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"})
        add(f"{side}.mid_block.resnets.0", f"{side}.mid.block_1", _RESNET)
        add(f"{side}.mid_block.attentions.0", f"{side}.mid.attn_1", _ATTENTION)
        add(f"{side}.mid_block.resnets.1", f"{side}.mid.block_2", _RESNET)
    for i in range(levels):  # LDM counts levels from the image's side, in the encoder and in the decoder
        down, up = f"encoder.down_blocks.{i}", f"decoder.up_blocks.{levels - 1 - i}"
        for j in range(layers):
            add(f"{down}.resnets.{j}", f"encoder.down.{i}.block.{j}", _RESNET)
            add(f"{down}.attentions.{j}", f"encoder.down.{i}.attn.{j}", _ATTENTION)
            add(f"{up}.resnets.{j}", f"decoder.up.{i}.block.{j}", _RESNET)
            add(f"{up}.attentions.{j}", f"decoder.up.{i}.attn.{j}", _ATTENTION)
        add(f"{down}.downsamplers.0", f"encoder.down.{i}.downsample", {"conv": "conv"})
        add(f"{up}.upsamplers.0", f"decoder.up.{i}.upsample", {"conv": "conv"})
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in modules.items() for kind in ("weight", "bias")}


def _todays_names(state: Mapping[str, T]) -> dict[str, T]:
    """Diffusers tensors with attention projections under today's names and as matrices: [C, C], not [C, C, 1, 1]."""
    old = re.compile(rf"(\.attentions\.\d+)\.({'|'.join(_OLD_ATTENTION)})\.(weight|bias)$")
    renamed = {
        old.sub(lambda match: f"{match[1]}.{_OLD_ATTENTION[match[2]]}.{match[3]}", key): value
        for key, value in state.items()
    }
    return {
        key: value.reshape(*value.shape[:2]) if _PROJECTION.search(key) and value.shape[2:] == (1, 1) else value
        for key, value in renamed.items()
    }


def _refuse_unknown(state: Mapping[str, Shaped], names: Mapping[str, str]) -> None:
    if unknown := sorted(key for key in state if key not in names):
        raise VAELoadError(
            f"unexpected tensors, which no AutoencoderKL has: {some(unknown)}; take them out of the file"
        )
