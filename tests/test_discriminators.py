"""train/discriminators.py: shapes, receptive fields, no running state, and that they learn."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from train.adversarial import GAN_LOSSES, r1_penalty
from train.discriminators import DISCRIMINATORS, PatchDiscriminator, UNetDiscriminator


def without_norm(module: nn.Module) -> nn.Module:
    """GroupNorm replaced by nothing: its statistics would tie every logit to every pixel."""
    for name, child in module.named_children():
        setattr(module, name, nn.Identity()) if isinstance(child, nn.GroupNorm) else without_norm(child)
    return module


def test_patch_is_pix2pixs_network() -> None:
    """The layers of NLayerDiscriminator(3 channels, ndf 64, n_layers 3), its BatchNorm aside."""
    convolutions = [layer for layer in PatchDiscriminator().modules() if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0], c.padding[0]) for c in convolutions] == [
        (3, 64, 4, 2, 1),
        (64, 128, 4, 2, 1),
        (128, 256, 4, 2, 1),
        (256, 512, 4, 1, 1),
        (512, 1, 4, 1, 1),
    ]
    assert PatchDiscriminator(8)(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)


def test_a_patch_is_70_pixels_wide() -> None:
    network = without_norm(PatchDiscriminator(8))
    images = torch.randn(1, 3, 160, 160, requires_grad=True)
    logits = network(images)
    (gradient,) = torch.autograd.grad(logits[0, 0, 9, 9], images)
    seen = gradient.abs().sum(1)[0] > 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    assert (len(rows), len(columns)) == (70, 70)
    assert (rows.max() - rows.min(), columns.max() - columns.min()) == (69, 69)


def test_unet_sees_far_and_stays_aligned() -> None:
    network = without_norm(UNetDiscriminator(8))
    images = torch.randn(1, 3, 96, 96, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(images)[0, 0, 48, 48], images)
    rows = (gradient.abs().sum((0, 1)) > 0).any(1).nonzero().flatten()
    assert rows.max() - rows.min() > 40
    assert abs((rows.max() + rows.min()).item() / 2 - 48) <= 8


@pytest.mark.parametrize("name", DISCRIMINATORS)
@settings(max_examples=12, deadline=None)
@given(height=st.integers(32, 75), width=st.integers(32, 75))
def test_any_size_from_32(name: str, height: int, width: int) -> None:
    logits = DISCRIMINATORS[name](8)(torch.randn(2, 3, height, width))
    assert logits.shape == ((2, 1, height, width) if name == "unet" else (2, 1, height // 8 - 2, width // 8 - 2))
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", DISCRIMINATORS)
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_least_side(name: str, layers: int) -> None:
    network = DISCRIMINATORS[name](8, layers)
    side = network.least_side
    assert network(torch.randn(1, 3, side, side)).numel() >= 1
    with pytest.raises(ValueError, match=f"images of {side - 1}x{side} pixels: .* sides of at least {side}"):
        network(torch.randn(1, 3, side - 1, side))


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_options_are_checked(name: str) -> None:
    assert DISCRIMINATORS[name](24)(torch.randn(1, 3, 32, 32)).shape[:2] == (1, 1)
    for width in (0, -8, 12):
        with pytest.raises(ValueError, match=f"width: expected a positive multiple of 8, found {width}"):
            DISCRIMINATORS[name](width)
    with pytest.raises(ValueError, match="layers: expected 1 or more, found 0"):
        DISCRIMINATORS[name](8, 0)


@pytest.mark.parametrize("name", DISCRIMINATORS)
@pytest.mark.parametrize("width", [8, 16, 40])
def test_no_instance_norm_in_narrow_networks(name: str, width: int) -> None:
    norms = [layer for layer in DISCRIMINATORS[name](width).modules() if isinstance(layer, nn.GroupNorm)]
    assert norms
    assert all(layer.num_channels / layer.num_groups >= 8 for layer in norms)


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_no_state_and_no_tie_between_images(name: str) -> None:
    network = DISCRIMINATORS[name](8)
    assert list(network.buffers()) == []
    images = torch.randn(3, 3, 40, 48)
    together = network(images)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(network.eval()(images), together)


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_initialisation(name: str) -> None:
    torch.manual_seed(0)
    network = DISCRIMINATORS[name](32)
    weights = torch.cat([layer.weight.flatten() for layer in network.modules() if isinstance(layer, nn.Conv2d)])
    assert weights.mean().item() == pytest.approx(0, abs=2e-4)
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert all(not layer.bias.any() for layer in network.modules() if isinstance(layer, nn.Conv2d))
    torch.manual_seed(0)
    again = DISCRIMINATORS[name](32)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_logits_are_fp32_under_autocast(name: str) -> None:
    network = DISCRIMINATORS[name](8)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.randn(1, 3, 32, 32)).dtype == torch.float32


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_two_forwards_then_one_backward_with_r1(name: str) -> None:
    """The order of a training step; in-place statistics would fail here."""
    network = DISCRIMINATORS[name](8)
    real, fake = torch.randn(2, 3, 32, 32, requires_grad=True), torch.randn(2, 3, 32, 32)
    real_logits, fake_logits = network(real), network(fake)
    loss = GAN_LOSSES["hinge"].discriminator_loss(real_logits, fake_logits) + r1_penalty(real, real_logits)
    loss.backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_learns_to_tell_sharp_from_smooth(name: str) -> None:
    network = DISCRIMINATORS[name](8)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3, betas=(0.5, 0.9))

    def images() -> tuple[Tensor, Tensor]:
        sharp = torch.randn(4, 3, 32, 32) * 0.3
        return sharp, nn.functional.avg_pool2d(sharp, 3, 1, 1) * 3

    for _ in range(25):
        real, fake = images()
        loss = GAN_LOSSES["hinge"].discriminator_loss(network(real), network(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, fake = images()
    assert (network(real) > 0).float().mean() > 0.9
    assert (network(fake) < 0).float().mean() > 0.9
