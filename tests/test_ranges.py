"""Activations measured in float32, and 16-bit types emulated, against networks that really run in 16 bits."""

import math

import pytest
import torch
from diffusers import AutoencoderKL

from latentcodec.vae.presets import build_vae
from latentcodec.vae.ranges import RangeError, measure_ranges, probe_images


@pytest.fixture
def vae() -> AutoencoderKL:
    return build_vae("tiny-f8d4", block_out_channels=(16, 32, 32), norm_num_groups=4).eval()


def scaled(vae: AutoencoderKL, module: str, factor: float) -> AutoencoderKL:
    with torch.no_grad():
        vae.get_submodule(module).weight.mul_(factor)
    return vae


def test_the_largest_activation_and_its_module_are_found(vae: AutoencoderKL) -> None:
    scaled(vae, "decoder.up_blocks.1.resnets.0.conv1", 1e5)
    outputs = []
    vae.decoder.up_blocks[1].resnets[0].conv1.register_forward_hook(lambda *args: outputs.append(args[-1]))
    found = measure_ranges(vae, probe_images(size=64))
    assert found.decoder.module == "decoder.up_blocks.1.resnets.0.conv1"
    assert found.decoder.value == outputs[0].abs().max().item()
    assert found.largest == found.decoder
    assert found.encoder.module.startswith(("encoder", "quant_conv"))
    assert 0 < found.encoder.value < found.decoder.value


@pytest.mark.parametrize(("factor", "fits"), [(1.0, True), (1e5, False)])
def test_float16_overflows_where_the_range_says_so(vae: AutoencoderKL, factor: float, fits: bool) -> None:
    scaled(vae, "encoder.mid_block.resnets.1.conv2", factor)
    images = next(probe_images(size=32))
    found = measure_ranges(vae, [images])
    assert (found.fits(torch.float16), found.fits(torch.bfloat16)) == (fits, True)
    assert (found.rms_levels["float16"] is not None) == fits
    assert found.to_json()["float16"] == {"limit": 65504.0, "fits": fits, "rms_levels": found.rms_levels["float16"]}
    with torch.no_grad():
        half = vae.half().encode(images.half()).latent_dist.mean  # the real thing
    assert torch.isfinite(half).all() == fits


def test_emulated_rounding_is_as_large_as_the_real_one(vae: AutoencoderKL) -> None:
    images = torch.cat(list(probe_images(count=2, size=64)))
    with torch.no_grad():
        exact = vae.decode(vae.encode(images).latent_dist.mean).sample
    found = measure_ranges(vae, [images])
    weights = {key: value.clone() for key, value in vae.state_dict().items()}
    for name, dtype in {"bfloat16": torch.bfloat16, "float16": torch.float16}.items():
        vae.to(dtype)
        with torch.no_grad():
            real = vae.decode(vae.encode(images.to(dtype)).latent_dist.mean).sample.float()
        vae.float().load_state_dict(weights)  # as they were before rounding
        levels = 127.5 * math.sqrt((real - exact).square().mean().item())
        assert found.rms_levels[name] == pytest.approx(levels, rel=0.3)


def test_the_network_is_left_as_it_was(vae: AutoencoderKL) -> None:
    vae.to(torch.bfloat16)
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    measure_ranges(vae, probe_images(size=32))
    assert vae.dtype == torch.bfloat16
    for key, value in vae.state_dict().items():
        assert torch.equal(value, before[key])
    assert not any(module._forward_hooks for module in vae.modules())


def test_batches_add_up(vae: AutoencoderKL) -> None:
    images = list(probe_images(count=3, size=32))
    together, apart = measure_ranges(vae, [torch.cat(images)]), measure_ranges(vae, images)
    assert together.images == apart.images == 3
    assert apart.largest.value == pytest.approx(together.largest.value, rel=1e-5)
    for name, levels in apart.rms_levels.items():
        assert levels == pytest.approx(together.rms_levels[name], rel=0.2)  # rounding is chaotic


def test_refusals(vae: AutoencoderKL) -> None:
    with pytest.raises(RangeError, match="at least one batch of images, found none"):
        measure_ranges(vae, [])
    with torch.no_grad():
        vae.decoder.conv_in.bias[0] = float("nan")
    with pytest.raises(RangeError, match=r"decoder\.conv_in puts out NaN or infinity even in float32"):
        measure_ranges(vae, probe_images(size=32))
