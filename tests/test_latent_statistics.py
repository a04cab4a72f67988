"""Statistics of latents against numpy, scipy, diffusers and closed forms, in whatever parts they come."""

import math

import numpy as np
import pytest
import scipy.fft
import scipy.stats
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from eval.latents.distribution import RunningDistribution, summarise
from eval.latents.models import Posterior
from eval.latents.posteriors import RunningPosteriors, active, posterior_share
from eval.latents.spectrum import (
    RadialSpectrum,
    RunningSpectrum,
    cut_high_frequencies,
    dct2,
    high_frequency_shares,
    inverse_dct2,
    radial_frequencies,
)


def latents(count: int, size: int = 16, seed: int = 0) -> Tensor:
    """Three channels: one far from 0, one skewed, one that holds some of the first."""
    random = np.random.default_rng(seed)
    normal = random.normal(50, 0.5, (count, size, size))
    skewed = random.exponential(2.0, (count, size, size))
    mixed = 3 * normal + random.normal(0, 1, (count, size, size))
    return torch.from_numpy(np.stack([normal, skewed, mixed], axis=1)).float()


def columns(values: Tensor) -> np.ndarray:
    """[channels, values] in float64."""
    return values.double().transpose(0, 1).flatten(1).numpy()


def test_moments_are_those_of_scipy() -> None:
    values = latents(6)
    found = RunningDistribution.of(values[:2]).merge(RunningDistribution.of(values[2:3]))
    found = found.merge(RunningDistribution.of(values[3:]))
    expected = columns(values)
    np.testing.assert_allclose(found.mean, expected.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.std(), expected.std(1), rtol=1e-10)
    np.testing.assert_allclose(found.skewness(), scipy.stats.skew(expected, axis=1), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.kurtosis(), scipy.stats.kurtosis(expected, axis=1), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.covariance(), np.cov(expected, ddof=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.correlation(), np.corrcoef(expected), rtol=1e-9, atol=1e-12)


@given(cuts=st.lists(st.integers(1, 7), max_size=4, unique=True), order=st.permutations(range(8)))
@settings(max_examples=25, deadline=None)
def test_order_and_parts_change_nothing(cuts: list[int], order: list[int]) -> None:
    values = latents(8)
    parts = np.split(np.array(order), sorted(cuts))
    found = RunningDistribution.of(values[parts[0].tolist()])
    for part in parts[1:]:
        found = found.merge(RunningDistribution.of(values[part.tolist()]))
    whole = RunningDistribution.of(values)
    assert found.count == whole.count
    for name in ("skewness", "kurtosis", "correlation", "std"):
        assert_close(getattr(found, name)(), getattr(whole, name)(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("law", "kurtosis"), [(np.random.Generator.uniform, -1.2), (np.random.Generator.laplace, 3.0)])
def test_kurtosis_of_known_laws(law: object, kurtosis: float) -> None:
    values = law(np.random.default_rng(1), size=(1, 1, 1000, 1000))  # type: ignore[operator]
    assert RunningDistribution.of(torch.from_numpy(values)).kurtosis().item() == pytest.approx(kurtosis, abs=0.1)


@pytest.mark.parametrize("planted", [-0.9, 0.0, 0.3, 0.99])
def test_the_correlation_of_a_planted_mixture(planted: float) -> None:
    one, other = torch.randn(2, 4, 1, 250, 250)
    mixture = torch.cat([one, planted * one + math.sqrt(1 - planted**2) * other], dim=1)
    correlation = RunningDistribution.of(mixture).correlation()
    assert correlation[0, 1].item() == pytest.approx(planted, abs=0.01)
    found = summarise(correlation)
    assert found.largest == found.mean_absolute == pytest.approx(abs(planted), abs=0.01)
    assert found.shared_bits == pytest.approx(-0.5 * math.log2(1 - planted**2), abs=0.05)
    shares = np.array([1 + planted, 1 - planted]) / 2
    assert found.effective_channels == pytest.approx(math.exp(scipy.stats.entropy(shares)), abs=0.01)


def test_summaries_of_the_extremes() -> None:
    independent = summarise(torch.eye(5).double())
    assert (independent.mean_absolute, independent.largest, independent.shared_bits) == (0, 0, 0)
    assert independent.effective_channels == pytest.approx(5)
    alike = summarise(torch.ones(5, 5).double())
    assert (alike.mean_absolute, alike.largest, alike.shared_bits) == (1, 1, math.inf)
    assert alike.effective_channels == pytest.approx(1)
    assert summarise(torch.ones(1, 1).double()).effective_channels == pytest.approx(1)


def test_a_constant_channel_is_undefined_or_uncorrelated() -> None:
    values = torch.cat([torch.full((2, 1, 9, 9), 0.3), torch.randn(2, 1, 9, 9)], dim=1)
    found = RunningDistribution.of(values[:1]).merge(RunningDistribution.of(values[1:]))
    assert found.constant().tolist() == [True, False]
    assert found.kurtosis().isnan().tolist() == found.skewness().isnan().tolist() == [True, False]
    assert_close(found.correlation(), torch.eye(2).double())


def test_kl_is_that_of_torch_and_diffusers() -> None:
    mean, logvar = torch.randn(3, 4, 6, 5), torch.randn(3, 4, 6, 5) - 3
    found = RunningPosteriors.of(Posterior(mean[:1], logvar[:1])).merge(
        RunningPosteriors.of(Posterior(mean[1:], logvar[1:]))
    )
    posterior = torch.distributions.Normal(mean.double(), logvar.double().div(2).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    assert_close(found.kl_nats_per_image(), expected.sum(dim=(0, 2, 3)) / 3)
    diffusers = DiagonalGaussianDistribution(torch.cat([mean, logvar], dim=1)).kl()
    assert found.kl_nats_per_image().sum().item() == pytest.approx(diffusers.mean().item(), rel=1e-5)
    assert_close(found.variance(), logvar.double().exp().mean(dim=(0, 2, 3)))


def test_kl_in_closed_form() -> None:
    """Mean 1 and variance 1: half a nat each. The prior itself: none."""
    at_one = RunningPosteriors.of(Posterior(torch.ones(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)))
    assert at_one.kl_nats_per_image().tolist() == [10.0] * 3
    prior = RunningPosteriors.of(Posterior(torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)))
    assert prior.kl_nats_per_image().tolist() == [0.0] * 3


def test_active_channels_are_those_whose_mean_varies() -> None:
    planted = torch.tensor([0.02, 0.005, 1.0, 0.0])
    values = planted.sqrt()[:, None, None] * torch.randn(20, 4, 32, 32) + 5
    assert active(RunningDistribution.of(values).variance()).tolist() == [True, False, True, False]


def test_posterior_share_is_a_ratio_of_deviations() -> None:
    assert posterior_share(torch.full((4,), 1e-6).double(), torch.full((4,), 4.0).double()) == pytest.approx(5e-4)
    assert posterior_share(torch.ones(2).double(), torch.zeros(2).double()) == math.inf


def test_the_transform_is_scipys() -> None:
    maps = torch.randn(2, 3, 12, 7)
    found = dct2(maps)
    np.testing.assert_allclose(found, scipy.fft.dctn(maps.double().numpy(), axes=(2, 3), norm="ortho"), atol=1e-12)
    assert_close(inverse_dct2(found), maps.double())
    assert_close(found.square().sum(), maps.double().square().sum())


def test_radial_frequencies_end_in_the_corner() -> None:
    frequencies = radial_frequencies(8, 16)
    assert frequencies[0, 0] == 0
    assert frequencies[4, 0] == frequencies[0, 8] == 0.25
    assert frequencies.max().item() == pytest.approx(math.hypot(7 / 16, 15 / 32))


def test_white_noise_has_a_flat_spectrum() -> None:
    noise = 3 * torch.randn(200, 2, 32, 32) + 10
    total = RunningSpectrum.of(noise[:50]).merge(RunningSpectrum.of(noise[50:]))
    radial = RadialSpectrum.of(total.mean_power())
    assert radial.power.shape == (2, 31)
    assert radial.frequencies[0].item() == pytest.approx(np.mean([1, 1, math.sqrt(2)]) / 64)
    assert_close(radial.power, torch.full((2, 31), 9.0).double(), rtol=0.25, atol=0)
    assert radial.slopes().abs().max() < 0.05
    expected = np.mean(radial_frequencies(32, 32).numpy().ravel()[1:] >= 0.25)
    assert high_frequency_shares(total.mean_power()).tolist() == pytest.approx([expected, expected], abs=0.01)
    assert expected == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("slope", [-3.0, -2.0, -1.0, 0.5])
def test_a_planted_slope_is_found(slope: float) -> None:
    random = np.random.default_rng(2)
    frequencies = np.hypot(*np.meshgrid(np.arange(48) / 96, np.arange(32) / 64, indexing="ij"))
    frequencies[0, 0] = 1
    signs = random.choice([-1.0, 1.0], (5, 1, 48, 32))
    maps = scipy.fft.idctn(signs * frequencies ** (slope / 2), axes=(2, 3), norm="ortho")
    power = RunningSpectrum.of(torch.from_numpy(maps)).mean_power()
    # A ring has a width, and a steep law is not straight across it.
    assert RadialSpectrum.of(power).slopes().item() == pytest.approx(slope, rel=0.05, abs=0.05)


@pytest.mark.parametrize("slope", [-2.5, -1.5])
def test_the_slope_of_a_piece_of_a_larger_field_is_that_of_the_field(slope: float) -> None:
    """The field is made by a Fourier transform; its piece does not close at the edges, as photographs do not."""
    random = np.random.default_rng(3)
    axis = np.fft.fftfreq(256)
    frequencies = np.hypot(axis[:, None], axis[None, :])
    frequencies[0, 0] = np.inf
    white = np.fft.fft2(random.normal(size=(24, 256, 256)))
    fields = np.fft.ifft2(white * frequencies ** (slope / 2)).real
    power = RunningSpectrum.of(torch.from_numpy(fields[:, None, :32, :32])).mean_power()
    assert RadialSpectrum.of(power).slopes().item() == pytest.approx(slope, abs=0.2)


@pytest.mark.parametrize(("row", "column", "share"), [(0, 7, 0.0), (0, 8, 1.0), (6, 6, 1.0), (5, 5, 0.0)])
def test_the_share_of_high_frequencies_of_one_wave(row: int, column: int, share: float) -> None:
    coefficients = torch.zeros(1, 1, 16, 16).double()
    coefficients[0, 0, row, column] = 1
    coefficients[0, 0, 0, 0] = 30  # the mean does not count
    power = RunningSpectrum.of(inverse_dct2(coefficients)).mean_power()
    assert high_frequency_shares(power).item() == pytest.approx(share, abs=1e-9)


def test_cutting_takes_what_is_above_and_leaves_what_is_below() -> None:
    values = latents(2).double()
    cut = cut_high_frequencies(values, 0.5)
    before, after = dct2(values), dct2(cut)
    above = radial_frequencies(16, 16) > 0.25
    assert_close(after[..., above], torch.zeros_like(after[..., above]), atol=1e-10, rtol=0)
    assert_close(after[..., ~above], before[..., ~above])
    assert_close(cut_high_frequencies(cut, 0.5), cut)
    assert_close(cut_high_frequencies(values, 0.0), values.mean(dim=(2, 3), keepdim=True).expand_as(values))
    assert_close(cut_high_frequencies(values, 2.0), values)
    assert cut_high_frequencies(values.float(), 0.5).dtype == torch.float32


def test_spectra_of_two_sizes_do_not_merge() -> None:
    small, large = (RunningSpectrum.of(torch.randn(1, 2, side, 8)) for side in (8, 16))
    with pytest.raises(ValueError, match="expected maps of one size, found 2 x 8 x 8 and 2 x 16 x 8"):
        small.merge(large)
