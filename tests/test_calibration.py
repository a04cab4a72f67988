"""Measured scale of latents: parity with torch, exact merging, and what ends up in the config."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentcodec.vae.calibration import (
    CalibrationError,
    LatentStatistics,
    RunningStatistics,
    measure_latents,
    write_scaling,
)
from latentcodec.vae.loading import load_vae, save_vae
from latentcodec.vae.presets import build_vae


@pytest.fixture
def vae() -> AutoencoderKL:
    return build_vae("tiny-f8d4", block_out_channels=(16, 32, 32), norm_num_groups=4)


def pictures(count: int = 4) -> list[Tensor]:
    """Batches of two different sizes: gradients and noise in [-1, 1]."""
    generator = torch.Generator().manual_seed(1)
    ramp = torch.linspace(-1, 1, 32).expand(3, 32, 32)
    sizes = [(2, 32, 32), (3, 16, 24)]
    return [
        (torch.rand(n, 3, h, w, generator=generator) - 0.5 + 0.5 * ramp[:, :h, :w]).clamp(-1, 1)
        for n, h, w in (sizes[i % 2] for i in range(count))
    ]


def raw_latents(vae: AutoencoderKL, batches: list[Tensor]) -> Tensor:
    """Means of the posteriors, [channels, values]."""
    with torch.no_grad():
        means = [vae.encode(images).latent_dist.mean for images in batches]
    return torch.cat([mean.double().transpose(0, 1).flatten(1) for mean in means], dim=1)


def test_statistics_are_those_of_torch_over_all_values(vae: AutoencoderKL) -> None:
    batches = pictures()
    latents = raw_latents(vae, batches)
    found = measure_latents(vae, batches, sample=False)
    assert found.count == latents.shape[1]
    assert found.scaling_factor == pytest.approx(1 / latents.std().item(), rel=1e-9)
    assert found.shift_factor == pytest.approx(latents.mean().item(), rel=1e-9)
    assert found.mean == pytest.approx(latents.mean(dim=1).tolist(), rel=1e-9)
    assert found.std == pytest.approx(latents.std(dim=1).tolist(), rel=1e-9)


def test_scaled_samples_have_unit_deviation(vae: AutoencoderKL) -> None:
    batches = pictures()
    scaling_factor = measure_latents(vae, batches).scaling_factor
    with torch.no_grad():
        samples = torch.cat([vae.encode(images).latent_dist.sample().flatten() for images in batches])  # other noise
    assert (samples * scaling_factor).std().item() == pytest.approx(1, abs=0.02)


def test_samples_are_a_function_of_the_seed(vae: AutoencoderKL) -> None:
    batches = pictures()
    assert measure_latents(vae, iter(batches)) == measure_latents(vae, batches)
    assert measure_latents(vae, batches, seed=1) != measure_latents(vae, batches)
    assert measure_latents(vae, batches, sample=False) != measure_latents(vae, batches)


def test_autocast_around_it_does_not_round_the_latents(vae: AutoencoderKL) -> None:
    plain = measure_latents(vae, pictures(2))
    with torch.autocast("cpu", torch.bfloat16):
        assert measure_latents(vae, pictures(2)) == plain


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=6),
    offset=st.floats(-1e4, 1e4),
    seed=st.integers(0, 2**32 - 1),
)
def test_parts_merge_to_the_whole(sizes: list[int], offset: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, 3, 2, 2, generator=generator, dtype=torch.float64) + offset for n in sizes]
    merged = RunningStatistics.of(parts[0])
    for part in parts[1:]:
        merged = merged.merge(RunningStatistics.of(part))
    whole = RunningStatistics.of(torch.cat(parts))
    assert merged.count == whole.count == 4 * sum(sizes)
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.squares, whole.squares, rtol=1e-9, atol=1e-9)
    assert merged.overall() == pytest.approx(whole.overall(), rel=1e-9)


def test_json_keeps_every_bit() -> None:
    before = RunningStatistics.of(torch.randn(3, 4, 5, 5))
    after = RunningStatistics.from_json(json.loads(json.dumps(before.to_json())))
    assert after.count == before.count
    assert torch.equal(after.mean, before.mean)
    assert torch.equal(after.squares, before.squares)


def test_a_latent_that_is_not_finite_names_its_batch(vae: AutoencoderKL) -> None:
    batches = pictures()
    batches[2][1, 0, 5, 5] = float("nan")
    with pytest.raises(CalibrationError, match=r"batch 2 \(2 x 3 x 32 x 32, .*\): \d+ of \d+ latents are NaN"):
        measure_latents(vae, batches)


def test_nothing_to_measure_is_an_error(vae: AutoencoderKL) -> None:
    with pytest.raises(CalibrationError, match="at least one batch"):
        measure_latents(vae, [])
    torch.nn.init.zeros_(vae.quant_conv.weight)
    torch.nn.init.zeros_(vae.quant_conv.bias)
    with pytest.raises(CalibrationError, match="the same for every image"):
        measure_latents(vae, pictures(1), sample=False)


def test_batches_are_taken_one_at_a_time(vae: AutoencoderKL) -> None:
    events = []
    vae.encoder.register_forward_hook(lambda *_: events.append("encode"))

    def batches() -> Iterator[Tensor]:
        for images in pictures(3):
            events.append("take")
            yield images

    measure_latents(vae, batches())
    assert events == ["take", "encode"] * 3


def test_the_scale_reaches_the_saved_config(vae: AutoencoderKL, tmp_path: Path) -> None:
    statistics = measure_latents(vae, pictures(1))
    write_scaling(vae, statistics)
    save_vae(vae, tmp_path / "vae")
    config = load_vae(tmp_path / "vae").config
    assert config.scaling_factor == statistics.scaling_factor
    assert config.shift_factor is None
    write_scaling(vae, statistics, shift=True)
    save_vae(vae, tmp_path / "vae")
    assert load_vae(tmp_path / "vae").config.shift_factor == statistics.shift_factor


def test_scale_per_channel_standardises_each_channel(vae: AutoencoderKL) -> None:
    batches = pictures()
    write_scaling(vae, measure_latents(vae, batches, sample=False), per_channel=True)
    mean, std = (
        torch.tensor(values, dtype=torch.float64) for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    scaled = (raw_latents(vae, batches) - mean[:, None]) / std[:, None] * vae.config.scaling_factor
    torch.testing.assert_close(scaled.mean(dim=1), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(scaled.std(dim=1), torch.ones(4, dtype=torch.float64))


def test_no_field_of_an_earlier_calibration_stays(vae: AutoencoderKL) -> None:
    statistics = measure_latents(vae, pictures(1))
    write_scaling(vae, statistics, per_channel=True)
    write_scaling(vae, statistics, shift=True)
    assert vae.config.latents_mean is None
    assert vae.config.latents_std is None
    write_scaling(vae, statistics)
    assert vae.config.shift_factor is None


def test_statistics_of_another_vae_are_refused(vae: AutoencoderKL) -> None:
    other = LatentStatistics(1.0, 0.0, [0.0] * 16, [1.0] * 16, 100)
    with pytest.raises(ValueError, match="statistics have 16 channels, the VAE has 4"):
        write_scaling(vae, other)
    with pytest.raises(ValueError, match="choose one"):
        write_scaling(vae, LatentStatistics(1.0, 0.0, [0.0] * 4, [1.0] * 4, 9), shift=True, per_channel=True)
