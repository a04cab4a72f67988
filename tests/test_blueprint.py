"""The layers told from a config, against the network that diffusers builds from it."""

import inspect
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch.utils.flop_counter import FlopCounterMode

from latentcodec.vae.blueprint import DEFAULTS, full_config, tensor_shapes
from latentcodec.vae.cost import vae_cost
from latentcodec.vae.geometry import empty_vae
from latentcodec.vae.presets import PRESETS
from latentcodec.vae.stored import VAELoadError

CONFIGS: dict[str, dict[str, Any]] = {name: preset.config() for name, preset in PRESETS.items()} | {
    "all defaults": {},
    "attention in every level": {
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("AttnDownEncoderBlock2D",) * 3,
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
        "layers_per_block": 3,
    },
    "bare": {
        "in_channels": 1,
        "out_channels": 2,
        "block_out_channels": (8, 24, 8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 5,
        "up_block_types": ("UpDecoderBlock2D",) * 5,
        "norm_num_groups": 4,
        "latent_channels": 7,
        "use_quant_conv": False,
        "mid_block_add_attention": False,
    },
}


def test_defaults_are_those_of_diffusers() -> None:
    signature = inspect.signature(AutoencoderKL.__init__).parameters
    assert {name: parameter.default for name, parameter in signature.items() if name != "self"} == DEFAULTS


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tensor_has_its_name_and_shape(name: str) -> None:
    state = empty_vae(CONFIGS[name]).state_dict()
    assert tensor_shapes(full_config(CONFIGS[name])) == {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_cost_is_what_torch_counts(name: str) -> None:
    vae = empty_vae(CONFIGS[name])
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    height, width = 6 * factor, 4 * factor
    with torch.no_grad():
        with FlopCounterMode(display=False) as encoding:
            latents = vae.encode(torch.empty(1, vae.config.in_channels, height, width, device="meta")).latent_dist.mean
        with FlopCounterMode(display=False) as decoding:
            vae.decode(latents)
    cost = vae_cost(CONFIGS[name], height, width)
    assert cost.encode_gmac == pytest.approx(encoding.get_total_flops() / 2e9, rel=1e-12)
    assert cost.decode_gmac == pytest.approx(decoding.get_total_flops() / 2e9, rel=1e-12)
    assert cost == vae_cost(vae, height, width)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"down_block_types": ("CrossAttnDownBlock2D",) * 4}, "down_block_types knows .*, found CrossAttnDownBlock2D"),
        ({"up_block_types": ("UpDecoderBlock2D",) * 3}, "4 block_out_channels, but 3 up_block_types"),
        ({"norm_num_groups": 24}, "norm_num_groups 24 does not divide the width 128"),
    ],
)
def test_configs_that_describe_no_network(change: dict[str, Any], message: str) -> None:
    with pytest.raises(VAELoadError, match=message):
        full_config(PRESETS["sd-f8d4"].config() | change)
