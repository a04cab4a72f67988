"""train/losses.py: parity with latent-diffusion's and other packages' formulas, units, gradients, precision."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import pytorch_msssim
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from eval.perceptual import untrained_lpips
from train import losses
from train.losses import NEEDS_PERCEPTUAL, TERMS, Reconstruction, kl, kl_nats_per_image, ms_ssim, ms_ssim_scales

WITHOUT_PERCEPTUAL = sorted(set(TERMS) - NEEDS_PERCEPTUAL)
PIXEL_TERMS = sorted(set(TERMS) - {"kl"})


@pytest.fixture(scope="module")
def perceptual() -> nn.Module:
    """LPIPS as in training, on a random backbone."""
    torch.manual_seed(3)
    return untrained_lpips("alex")


def batch(count: int = 3, size: int = 48, perceptual: nn.Module | None = None) -> Reconstruction:
    """Leaves that require grad, images too, to see which term reaches what."""
    images = (torch.rand(count, 3, size, size + 16) * 2 - 1).requires_grad_()
    reconstructions = (0.8 * images + 0.3 * torch.randn_like(images)).detach().requires_grad_()
    mean = torch.randn(count, 4, size // 8, size // 8 + 2).requires_grad_()
    logvar = (torch.randn_like(mean) * 3 - 4).detach().requires_grad_()
    return Reconstruction(images, reconstructions, mean, logvar, perceptual)


def test_parity_with_latent_diffusion(perceptual: nn.Module) -> None:
    """The generator's loss without its adversarial part as LPIPSWithDiscriminator has it: sums over CHW / batch."""
    pair = batch(perceptual=perceptual)
    inputs, outputs, size = pair.images, pair.reconstructions, pair.images.shape[0]
    rec = torch.abs(inputs.contiguous() - outputs.contiguous()) + 1.0 * perceptual(inputs, outputs)
    nll = torch.sum(rec) / size
    posterior = DiagonalGaussianDistribution(torch.cat([pair.mean, pair.logvar], dim=1))
    theirs = nll + 1e-6 * torch.sum(posterior.kl()) / size

    ours = TERMS["l1"](pair) + 1.0 * TERMS["lpips"](pair) + 1e-6 * TERMS["kl"](pair)
    torch.testing.assert_close(ours * inputs[0].numel(), theirs, rtol=1e-5, atol=0)

    leaves = [pair.reconstructions, pair.mean, pair.logvar]
    for mine, reference in zip(
        torch.autograd.grad(ours * inputs[0].numel(), leaves), torch.autograd.grad(theirs, leaves), strict=True
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)


def test_pixel_terms_by_hand() -> None:
    images = torch.zeros(2, 3, 32, 32)
    reconstructions = torch.zeros(2, 3, 32, 32)
    reconstructions[0, 0] = 0.6
    assert losses.l1(images, reconstructions).item() == pytest.approx(0.1)
    assert losses.mse(images, reconstructions).item() == pytest.approx(0.06)
    expected = (0.01 + 0.6**2) ** 0.5 / 6 + 0.1 * 5 / 6
    assert losses.charbonnier(images, reconstructions, eps=0.1).item() == pytest.approx(expected)
    assert losses.charbonnier(images, images).item() == pytest.approx(1e-3)


@pytest.mark.parametrize("name", sorted(TERMS))
def test_terms_are_means_over_the_batch(name: str, perceptual: nn.Module) -> None:
    pair = batch(perceptual=perceptual)
    fields = ("images", "reconstructions", "mean", "logvar")
    alone = [
        TERMS[name](replace(pair, **{field: getattr(pair, field)[i : i + 1] for field in fields})) for i in range(3)
    ]
    torch.testing.assert_close(TERMS[name](pair), torch.stack(alone).mean(), rtol=1e-5, atol=1e-7)
    assert len({round(value.item(), 7) for value in alone}) == 3


@pytest.mark.parametrize("name", sorted(TERMS))
def test_gradient_reaches_what_it_must_and_nothing_else(name: str, perceptual: nn.Module) -> None:
    pair = batch(perceptual=perceptual)
    TERMS[name](pair).backward()
    reached = {field for field in ("reconstructions", "mean", "logvar") if getattr(pair, field).grad is not None}
    assert reached == ({"mean", "logvar"} if name == "kl" else {"reconstructions"})
    for field in reached:
        gradient = getattr(pair, field).grad
        assert torch.isfinite(gradient).all()
        assert (gradient.abs() > 0).float().mean() > 0.9
    if name == "lpips":
        assert pair.images.grad is None
        assert all(parameter.grad is None for parameter in perceptual.parameters())


@pytest.mark.parametrize("name", PIXEL_TERMS)
def test_descending_the_gradient_brings_the_images_together(name: str, perceptual: nn.Module) -> None:
    pair = batch(1, perceptual=perceptual)
    start = TERMS[name](pair)
    (gradient,) = torch.autograd.grad(start, pair.reconstructions)
    stepped = (pair.reconstructions - 0.02 * gradient / gradient.abs().max()).detach()
    assert TERMS[name](replace(pair, reconstructions=stepped)) < start


@pytest.mark.parametrize("name", PIXEL_TERMS)
@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0, None])
def test_gradients_are_finite_at_the_awkward_places(name: str, value: float | None, perceptual: nn.Module) -> None:
    """Constant images, equal images, a constant against noise, values far out of range."""
    noise = torch.rand(2, 3, 40, 40) * 2 - 1
    images = noise if value is None else torch.full_like(noise, value)
    for reconstructions in (images.clone(), noise.clone(), 100 * noise, 1e4 + noise, torch.full_like(noise, -0.5)):
        reconstructions.requires_grad_()
        pair = Reconstruction(images, reconstructions, torch.zeros(2, 4, 5, 5), torch.zeros(2, 4, 5, 5), perceptual)
        loss = TERMS[name](pair)
        loss.backward()
        assert math.isfinite(loss.item())
        assert torch.isfinite(reconstructions.grad).all()


@pytest.mark.parametrize("name", sorted(TERMS))
def test_fp32_whatever_goes_on_around(name: str, perceptual: nn.Module) -> None:
    pair = batch(perceptual=perceptual)
    expected = TERMS[name](pair)
    assert (expected.dtype, expected.shape) == (torch.float32, ())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(TERMS[name](pair), expected)
    rounded = {field: getattr(pair, field).bfloat16() for field in ("images", "reconstructions", "mean", "logvar")}
    widened = {field: value.float() for field, value in rounded.items()}
    result = TERMS[name](replace(pair, **rounded))
    assert result.dtype == torch.float32
    assert torch.equal(result, TERMS[name](replace(pair, **widened)))


def test_lpips_equals_the_module(perceptual: nn.Module) -> None:
    pair = batch(perceptual=perceptual)
    expected = perceptual(pair.images, pair.reconstructions).mean()
    found = TERMS["lpips"](pair)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    (theirs,) = torch.autograd.grad(expected, pair.reconstructions)
    (ours,) = torch.autograd.grad(found, pair.reconstructions)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-9)


def test_lpips_in_training_mode_is_refused(perceptual: nn.Module) -> None:
    pair = batch(perceptual=perceptual)
    perceptual.train()
    try:
        assert perceptual(pair.images, pair.reconstructions)[0] != perceptual(pair.images, pair.reconstructions)[0]
        with pytest.raises(ValueError, match="expected LPIPS in eval mode"):
            TERMS["lpips"](pair)
    finally:
        perceptual.eval()


def test_lpips_gradient_is_finite_where_all_features_are_zero(perceptual: nn.Module) -> None:
    """A colour that the scaling layer maps to 0: without biases the features have length 0, at the kink of sqrt."""
    biases = [p for name, p in perceptual.net.named_parameters() if name.endswith("bias")]
    kept = [bias.clone() for bias in biases]
    for bias in biases:
        bias.zero_()
    try:
        grey = perceptual.scaling_layer.shift.expand(1, 3, 40, 40).clone().requires_grad_()
        assert not any(features.any() for features in perceptual.net(perceptual.scaling_layer(grey)))
        losses.lpips(perceptual, torch.rand(1, 3, 40, 40), grey).backward()
        assert torch.isfinite(grey.grad).all()
    finally:
        for bias, value in zip(biases, kept, strict=True):
            bias.copy_(value)


def test_lpips_without_a_module_says_what_to_do() -> None:
    assert {"lpips"} == NEEDS_PERCEPTUAL
    with pytest.raises(ValueError, match=r"load_lpips, or use the term `ms_ssim`"):
        TERMS["lpips"](batch())


@pytest.mark.parametrize("name", WITHOUT_PERCEPTUAL)
def test_other_terms_need_no_module(name: str) -> None:
    assert TERMS[name](batch()).item() > 0


def test_high_pass_by_its_filter() -> None:
    """Against a two-dimensional convolution, at places where the whole window lies inside."""
    difference = torch.randn(1, 3, 31, 29, dtype=torch.float64)
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = torch.outer(window, window) / window.sum() ** 2
    centre = torch.zeros(11, 11, dtype=torch.float64)
    centre[5, 5] = 1
    kernel = (centre - window).expand(3, 1, 11, 11)
    inside = torch.zeros(1, 3, 31, 29, dtype=torch.float64)
    inside[:, :, 10:-10, 10:-10] = difference[:, :, 10:-10, 10:-10]  # so that the border's rule plays no part
    expected = (F.conv2d(inside, kernel, padding=5, groups=3) ** 2 + 1e-6).sqrt().mean()
    found = losses.high_pass(torch.zeros(1, 3, 31, 29), inside.float())
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_high_pass_ignores_brightness_and_weighs_detail() -> None:
    images = torch.rand(1, 3, 64, 64)
    assert losses.high_pass(images, images + 0.4).item() == pytest.approx(1e-3, rel=1e-3)
    waves = torch.arange(64)
    coarse, fine = (0.2 * torch.cos(2 * math.pi * f * waves).expand(1, 3, 64, 64) for f in (1 / 32, 1 / 2))
    assert losses.high_pass(images, images + fine) > 5 * losses.high_pass(images, images + coarse)


SCALES = {11: 1, 21: 1, 22: 2, 32: 2, 43: 2, 44: 3, 64: 3, 88: 4, 175: 4, 176: 5, 999: 5}


@pytest.mark.parametrize(("side", "scales"), SCALES.items())
def test_ms_ssim_scales(side: int, scales: int) -> None:
    assert ms_ssim_scales(side, side + 50) == ms_ssim_scales(side + 50, side) == scales
    images = torch.rand(1, 3, side, min(side, 200))
    assert torch.isfinite(ms_ssim(images, images.flip(2)))


def test_ms_ssim_refuses_tiny_images() -> None:
    with pytest.raises(ValueError, match="at least 11 pixels, found 10x30"):
        ms_ssim(torch.zeros(1, 3, 10, 30), torch.zeros(1, 3, 10, 30))


def test_ms_ssim_against_pytorch_msssim() -> None:
    """The stated formula, with the maps of another package."""
    pair = batch(2, 96)
    x, r = (pair.images + 1) / 2, (pair.reconstructions + 1) / 2
    window = pytorch_msssim.ssim.__globals__["_fspecial_gauss_1d"](11, 1.5).repeat(3, 1, 1, 1)
    weights = (0.0448, 0.2856, 0.3001, 0.2363)
    similarity = torch.zeros(())
    for scale, weight in enumerate(weights):
        full, structure = pytorch_msssim.ssim.__globals__["_ssim"](x, r, 1.0, window, size_average=False)
        similarity = similarity + weight / sum(weights) * (full if scale == 3 else structure).mean()
        x, r = F.avg_pool2d(x, 2), F.avg_pool2d(r, 2)
    torch.testing.assert_close(ms_ssim(pair.images, pair.reconstructions), 1 - similarity, rtol=1e-5, atol=1e-6)


def test_ms_ssim_of_one_scale_is_one_minus_ssim() -> None:
    pair = batch(2, 16)
    images, reconstructions = pair.images[..., :16], pair.reconstructions[..., :16]
    expected = 1 - pytorch_msssim.ssim((images + 1) / 2, (reconstructions + 1) / 2, data_range=1.0)
    assert ms_ssim(images, reconstructions).item() == pytest.approx(expected.item(), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(11, 50), width=st.integers(11, 50), seed=st.integers(0, 2**31))
def test_ms_ssim_bounds_and_symmetry(height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(1, 3, height, width, generator=generator) * 2 - 1 for _ in range(2))
    assert ms_ssim(a, a).item() == pytest.approx(0, abs=1e-6)
    assert 0 < ms_ssim(a, b).item() <= 2
    assert ms_ssim(a, b).item() == pytest.approx(ms_ssim(b, a).item(), abs=1e-5)
    assert ms_ssim(a, 1 - a).item() > ms_ssim(a, 0.9 * a).item()


def test_kl_is_diffusers() -> None:
    moments = torch.cat([torch.randn(5, 4, 3, 7) * 3, torch.randn(5, 4, 3, 7) * 20], dim=1)
    posterior = DiagonalGaussianDistribution(moments)
    assert posterior.logvar.min() == -30
    assert posterior.logvar.max() == 20
    found = kl_nats_per_image(posterior.mean, posterior.logvar)
    torch.testing.assert_close(found, posterior.kl(), rtol=1e-6, atol=0)
    torch.testing.assert_close(kl(posterior.mean, posterior.logvar, 3 * 24 * 56), posterior.kl().mean() / (3 * 24 * 56))


def test_kl_is_the_divergence() -> None:
    mean, logvar = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2)
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, torch.exp(0.5 * logvar)), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(kl_nats_per_image(mean, logvar), exact.sum(dim=(1, 2, 3)))
    assert kl_nats_per_image(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)).item() == 0


@pytest.mark.parametrize("logvar", [-30.0, 20.0])
def test_kl_gradient_is_finite_at_the_clamps(logvar: float) -> None:
    mean = torch.zeros(1, 4, 2, 2, requires_grad=True)
    log_variance = torch.full((1, 4, 2, 2), logvar, requires_grad=True)
    kl_nats_per_image(mean, log_variance).sum().backward()
    torch.testing.assert_close(log_variance.grad, torch.full_like(mean, 0.5 * (math.exp(logvar) - 1)))


@pytest.mark.parametrize("compute", [losses.l1, losses.mse, losses.charbonnier, losses.high_pass, losses.ms_ssim])
def test_deterministic(compute: Callable[[Tensor, Tensor], Tensor]) -> None:
    pair = batch()
    gradients = [torch.autograd.grad(compute(pair.images, pair.reconstructions), pair.reconstructions)[0] for _ in "ab"]
    assert torch.equal(*gradients)


@pytest.mark.gpu
@pytest.mark.parametrize("name", WITHOUT_PERCEPTUAL)
def test_cuda_agrees_although_tf32_is_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    pair = batch()
    moved = {field: getattr(pair, field).cuda() for field in ("images", "reconstructions", "mean", "logvar")}
    torch.testing.assert_close(TERMS[name](replace(pair, **moved)).cpu(), TERMS[name](pair), rtol=1e-5, atol=1e-6)
