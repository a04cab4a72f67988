"""The table of architectures, who can load them, and what they cost."""

import inspect
import subprocess
import sys

import pytest
import torch
from diffusers import AutoencoderKL

from latentcodec.vae.cost import vae_cost
from latentcodec.vae.ecosystems import ecosystems
from latentcodec.vae.geometry import empty_vae
from latentcodec.vae.presets import PRESETS, build_vae


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_an_f8_network_with_nothing_left_to_defaults(name: str) -> None:
    config = PRESETS[name].config()
    assert set(config) == set(inspect.signature(AutoencoderKL.__init__).parameters) - {"self"}
    assert config["scaling_factor"] == 1.0  # that of random weights is unknown, and not Stable Diffusion's
    assert config["layers_per_block"] == 2
    assert config["mid_block_add_attention"]
    if not name.startswith("demo"):  # whose first level is narrower still, for two minutes on a CPU
        assert [width // config["block_out_channels"][0] for width in config["block_out_channels"]] == [1, 2, 4, 4]
    assert config["use_quant_conv"] == config["use_post_quant_conv"] == (config["latent_channels"] == 4)
    assert name.endswith(f"f8d{config['latent_channels']}")
    vae = empty_vae(config)
    images = torch.empty(1, 3, 64, 48, device="meta")
    latents = vae.encode(images).latent_dist.mean
    assert latents.shape == (1, config["latent_channels"], 8, 6)
    assert vae.decode(latents).sample.shape == images.shape


@pytest.mark.parametrize("name", ["demo-f8d16", "tiny-f8d4", "tiny-f8d16"])
def test_narrow_networks_keep_four_channels_a_group_before_conv_out(name: str) -> None:
    preset = PRESETS[name]
    assert preset.block_out_channels[0] // preset.norm_num_groups == 4


def test_build_vae_draws_from_the_global_generator() -> None:
    first, second = build_vae("demo-f8d16"), build_vae("demo-f8d16")
    torch.manual_seed(0)
    again = build_vae("demo-f8d16")
    key = "encoder.conv_in.weight"
    assert torch.equal(first.state_dict()[key], again.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], second.state_dict()[key])
    assert first.dtype == torch.float32


def test_overrides_change_the_config() -> None:
    vae = build_vae("tiny-f8d4", block_out_channels=(16, 32, 32), norm_num_groups=4, latent_channels=8)
    assert vae.config.down_block_types == ("DownEncoderBlock2D",) * 3
    assert len(vae.decoder.up_blocks) == 3
    assert vae.encode(torch.zeros(1, 3, 16, 16)).latent_dist.mean.shape == (1, 8, 4, 4)


def test_unknown_names_are_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown preset 'sd-f8d8'; the nearest is 'sd-f8d4'"):
        build_vae("sd-f8d8")
    with pytest.raises(ValueError, match=r"field 'latent_channel'; the nearest is 'latent_channels'"):
        build_vae("tiny-f8d4", latent_channel=8)
    with pytest.raises(ValueError, match=r"norm_num_groups is 5, which does not divide the width 32"):
        build_vae("tiny-f8d4", norm_num_groups=5)


def test_stable_diffusion_geometry_has_the_published_size() -> None:
    vae = empty_vae(PRESETS["sd-f8d4"].config())
    assert len(vae.state_dict()) == 248
    assert len(empty_vae(PRESETS["flux-f8d16"].config()).state_dict()) == 244
    cost = vae_cost(vae, 256, 256)
    assert cost.parameters == 83_653_863
    assert cost.encoder_parameters == 34_163_592 + 72  # 72: quant_conv, 8 x 8 weights and 8 biases


@pytest.mark.parametrize(("side", "encode", "decode"), [(256, 136.4, 311.1), (512, 558.3, 1257.3), (1024, 2439, 5235)])
def test_stable_diffusion_geometry_costs_the_published_work(side: int, encode: float, decode: float) -> None:
    cost = vae_cost(PRESETS["sd-f8d4"].config(), side, side)
    assert cost.encode_gmac == pytest.approx(encode, rel=5e-4)
    assert cost.decode_gmac == pytest.approx(decode, rel=5e-4)


def test_cost_of_a_network_without_attention_is_its_convolutions() -> None:
    vae = build_vae("tiny-f8d4", mid_block_add_attention=False)
    macs = 0

    def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal macs
        assert isinstance(module, torch.nn.Conv2d)
        macs += output.numel() * module.weight[0].numel()

    for module in vae.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        latents = vae.encode(torch.zeros(1, 3, 32, 48)).latent_dist.mean
        encode, macs = macs, 0
        vae.decode(latents)
    cost = vae_cost(vae, 32, 48)
    assert cost.encode_gmac == pytest.approx(encode / 1e9, rel=1e-9)
    assert cost.decode_gmac == pytest.approx(macs / 1e9, rel=1e-9)
    assert cost.parameters == sum(p.numel() for p in vae.parameters())


def test_cost_refuses_sides_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"multiples of 8 pixels, found 65 x 64"):
        vae_cost(PRESETS["tiny-f8d4"].config(), 65, 64)


def test_loads_in_says_where_a_geometry_goes() -> None:
    assert PRESETS["sd-f8d4"].loads_in == ("diffusers", "ComfyUI", "A1111")
    assert PRESETS["flux-f8d16"].loads_in == ("diffusers", "ComfyUI")
    assert PRESETS["tiny-f8d4"].loads_in == ("diffusers",)


@pytest.mark.parametrize(
    ("change", "comfyui", "a1111"),
    [
        ({"norm_num_groups": 16}, "norm groups are fixed at 32, not 16", "norm groups are fixed at 32, not 16"),
        ({"block_out_channels": (64, 128, 256, 256)}, "widths are fixed", "widths are fixed"),
        ({"latent_channels": 16}, None, "4 channels, not 16"),
        ({"latent_channels": 64}, "64 latent channels", "4 channels, not 64"),
        ({"use_quant_conv": False}, "both there or both absent", "must be there"),
        ({"use_quant_conv": False, "use_post_quant_conv": False}, None, "must be there"),
        ({"layers_per_block": 1}, "two residual blocks", "two residual blocks"),
        ({"mid_block_add_attention": False}, "always built", "always built"),
        ({"in_channels": 4}, "4 in and 3 out", "4 in and 3 out"),
        ({"up_block_types": ("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3}, "inside the levels", "inside"),
    ],
)
def test_ecosystems_give_the_reason(change: dict[str, object], comfyui: str | None, a1111: str | None) -> None:
    found = ecosystems(PRESETS["sd-f8d4"].config() | change)
    assert found["diffusers"] is None
    for program, reason in (("ComfyUI", comfyui), ("A1111", a1111)):
        said = found[program]
        assert said is None if reason is None else said is not None and reason in said


def test_the_table_costs_no_torch() -> None:
    code = "import sys, latentcodec.vae.presets as p; p.PRESETS['sd-f8d4'].loads_in; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
