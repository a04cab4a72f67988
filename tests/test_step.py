"""One step: LDM's formulas, and gradients that flow where they should and nowhere else."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from eval.perceptual import untrained_lpips
from latentcodec.vae.equivariance import Transform
from latentcodec.vae.presets import build_vae
from train.adversarial import GAN_LOSSES
from train.config import AdversarialConfig, LossConfig, load_preset
from train.discriminators import DISCRIMINATORS
from train.losses import TERMS, latent_equivariance
from train.schedule import StepPlan
from train.step import DiscriminatorSide, GeneratorSide


def plan(**changes: Any) -> StepPlan:
    values = {
        "step": 0, "vae_lr": 1e-4, "discriminator_lr": 1e-4, "gan_weight": 0.0, "train_discriminator": True,
        "r1_weight": 0.0, "transform": None,
    }  # fmt: skip
    return StepPlan(**(values | changes))


@pytest.fixture
def vae() -> AutoencoderKL:
    return build_vae("tiny-f8d4", block_out_channels=(16, 16, 32, 32), norm_num_groups=4)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 4, 8, 8)


@pytest.fixture(scope="module")
def perceptual() -> nn.Module:
    """LPIPS with a random backbone: the arithmetic is that of the real one."""
    return untrained_lpips("alex")


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }


def test_parity_preset_has_ldms_values(vae: AutoencoderKL, batch: tuple[Tensor, Tensor], perceptual: nn.Module) -> None:
    """sd-f8d4 against LPIPSWithDiscriminator (CompVis/latent-diffusion, ldm/modules/losses/contperceptual.py).

    There, with x the images, r the reconstructions, N the batch and logvar = 0:
        rec_loss = |x - r| + 1.0 * lpips(x, r)          (lpips: one value an image, spread over its pixels)
        nll_loss = sum(rec_loss) / N
        kl_loss  = sum(0.5 * (mean^2 + var - 1 - log var)) / N
        g_loss   = -mean(D(r))
        d_weight = 0.5 * clamp(|grad nll_loss| / (|grad g_loss| + 1e-4), 0, 1e4)   at the decoder's last layer
        loss     = nll_loss + 1e-6 * kl_loss + d_weight * g_loss
        d_loss   = 0.5 * (mean(relu(1 - D(x))) + mean(relu(1 + D(r))))
    """
    preset = load_preset("sd-f8d4")
    torch.manual_seed(1)
    network = DISCRIMINATORS[preset.adversarial.discriminator](16)
    side = GeneratorSide(vae, preset.loss, preset.adversarial, perceptual=perceptual, discriminator=network)
    images, noise = batch
    output = side(images, noise, plan(gan_weight=preset.adversarial.weight))

    posterior = vae.encode(images).latent_dist
    mean, var = posterior.mean, posterior.var
    r = vae.decode(mean + var.sqrt() * noise).sample
    rec_loss = (images - r).abs() + 1.0 * perceptual(images, r)
    nll_loss = rec_loss.sum() / 2
    kl_loss = (0.5 * (mean**2 + var - 1 - torch.log(var))).sum() / 2
    g_loss = -network(r).mean()
    last = vae.decoder.conv_out.weight
    nll_grad, g_grad = (torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (nll_loss, g_loss))
    d_weight = 0.5 * (nll_grad / (g_grad + 1e-4)).clamp(0, 1e4)
    expected = nll_loss + 1e-6 * kl_loss + d_weight * g_loss

    torch.testing.assert_close(output.scalars["gan_weight"], d_weight.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(output.scalars["kl_nats_per_image"], kl_loss.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=0)

    loss, _ = DiscriminatorSide(network, preset.adversarial)(output.targets, output.reconstructions, plan())
    d_loss = 0.5 * ((1 - network(images)).relu().mean() + (1 + network(r)).relu().mean())
    torch.testing.assert_close(loss, d_loss, rtol=1e-5, atol=0)


def test_lpips_alone_moves_the_decoder(vae: AutoencoderKL, batch: tuple[Tensor, Tensor], perceptual: nn.Module) -> None:
    side = GeneratorSide(vae, LossConfig(weights={"lpips": 1.0}), AdversarialConfig(), perceptual=perceptual)
    side(*batch, plan()).loss.backward()
    moved = gradients(vae)
    assert "decoder.conv_in.weight" in moved
    assert "encoder.conv_in.weight" in moved
    assert not gradients(perceptual)


@pytest.mark.parametrize("term", TERMS)
def test_each_term_reaches_what_it_should(
    term: str, vae: AutoencoderKL, batch: tuple[Tensor, Tensor], perceptual: nn.Module
) -> None:
    side = GeneratorSide(vae, LossConfig(weights={term: 1.0}), AdversarialConfig(), perceptual=perceptual)
    side(*batch, plan()).loss.backward()
    moved = gradients(vae)
    assert "encoder.conv_in.weight" in moved
    assert ("decoder.conv_in.weight" in moved) == (term != "kl"), "the KL is about the posterior alone"


@pytest.mark.parametrize("name", DISCRIMINATORS)
@pytest.mark.parametrize("loss", GAN_LOSSES)
def test_each_side_leaves_the_other_untouched(
    name: str, loss: str, vae: AutoencoderKL, batch: tuple[Tensor, Tensor]
) -> None:
    adversarial = AdversarialConfig(discriminator=name, loss=loss)
    network = DISCRIMINATORS[name](16)
    generator = GeneratorSide(vae, LossConfig(weights={"kl": 1e-9}), adversarial, discriminator=network)
    output = generator(*batch, plan(gan_weight=1.0))
    output.loss.backward()
    assert "decoder.conv_in.weight" in gradients(vae)
    assert not gradients(network)
    assert all(parameter.requires_grad for parameter in network.parameters())

    vae.zero_grad()
    side = DiscriminatorSide(network, adversarial)
    value, scalars = side(output.targets, output.reconstructions, plan(r1_weight=1.0))
    value.backward()
    assert len(gradients(network)) > 4
    assert not gradients(vae)
    assert scalars["r1"] > 0


def test_the_sides_own_only_their_parameters(vae: AutoencoderKL, perceptual: nn.Module) -> None:
    network = DISCRIMINATORS["patch"](16)
    side = GeneratorSide(vae, LossConfig(), AdversarialConfig(), perceptual=perceptual, discriminator=network)
    assert {id(parameter) for parameter in side.parameters()} == {id(parameter) for parameter in vae.parameters()}
    assert all(name.startswith("vae.") for name in side.state_dict())


def test_decoder_only_keeps_the_encoder_out(vae: AutoencoderKL, batch: tuple[Tensor, Tensor]) -> None:
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    side = GeneratorSide(vae, LossConfig(weights={"mse": 1.0}), AdversarialConfig())
    side(*batch, plan()).loss.backward()
    moved = gradients(vae)
    assert moved
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in moved)


def test_transform_acts_on_latents_and_targets_alike(vae: AutoencoderKL, batch: tuple[Tensor, Tensor]) -> None:
    """A VAE that is an average pooling commutes with the turn exactly, so the turned pair is as far apart as the plain one."""
    images, noise = batch
    turn = Transform(scale_32nds=32, quarter_turns=1)
    torch.testing.assert_close(turn.images(images), torch.rot90(images, 1, dims=(2, 3)), atol=1e-5, rtol=0)
    pool = nn.AvgPool2d(8)
    torch.testing.assert_close(turn.latents(pool(images)), pool(turn.images(images)), atol=1e-5, rtol=0)
    half = Transform(scale_32nds=16, quarter_turns=3)
    side = GeneratorSide(vae, LossConfig(weights={"l1": 1.0}), AdversarialConfig())
    output = side(images, noise, plan(transform=half))
    assert output.targets.shape == output.reconstructions.shape == (2, 3, 32, 32)
    torch.testing.assert_close(output.targets, half.images(images))
    torch.testing.assert_close(output.loss, (output.targets - output.reconstructions).abs().mean())


def test_the_error_between_latents_is_weighed_in(vae: AutoencoderKL, batch: tuple[Tensor, Tensor]) -> None:
    """Against its formula, with gradients to the encoder from both sides, and none without a transform."""
    images, noise = batch
    half = Transform(scale_32nds=16, quarter_turns=0)
    side = GeneratorSide(vae, LossConfig(weights={"l1": 1.0}), AdversarialConfig())
    plain = side(images, noise, plan(transform=half))
    weighed = side(images, noise, plan(transform=half, latent_weight=0.5))
    of_half = vae.encode(half.images(images)).latent_dist.mean
    halved = half.latents(vae.encode(images).latent_dist.mean)
    expected = torch.stack(
        [(one - other).square().mean() / other.square().mean() for one, other in zip(of_half, halved, strict=True)]
    ).mean()
    torch.testing.assert_close(weighed.scalars["equivariance"], expected, rtol=2e-3, atol=0)  # but for the floor
    torch.testing.assert_close(weighed.loss - plain.loss, 0.5 * weighed.scalars["equivariance"])
    assert "equivariance" not in side(images, noise, plan(latent_weight=0.5)).scalars
    undecoded = side(images, noise, plan(transform=half, transform_decoded=False, latent_weight=0.5))
    torch.testing.assert_close(undecoded.targets, images)
    torch.testing.assert_close(undecoded.loss - side(images, noise, plan()).loss, 0.5 * weighed.scalars["equivariance"])
    summed = GeneratorSide(vae, LossConfig(weights={"l1": 1.0}, reduction="ldm_sum"), AdversarialConfig())
    whole = summed(images, noise, plan(transform=half, latent_weight=0.5))
    torch.testing.assert_close(whole.loss, weighed.loss * weighed.targets[0].numel())


def test_latents_that_follow_the_image_have_no_error() -> None:
    latents = torch.randn(3, 4, 6, 6)
    assert latent_equivariance(latents, latents) == 0
    torch.testing.assert_close(latent_equivariance(9 * latents, 10 * latents), torch.tensor(0.01), rtol=1e-3, atol=0)
    # Micro-batches add up.
    other = latents + torch.rand(3, 1, 1, 1)
    parts = torch.stack([latent_equivariance(a[None], b[None]) for a, b in zip(latents, other, strict=True)])
    torch.testing.assert_close(latent_equivariance(latents, other), parts.mean())


def test_bf16_autocast_keeps_losses_and_weights_in_fp32(vae: AutoencoderKL, batch: tuple[Tensor, Tensor]) -> None:
    side = GeneratorSide(vae, LossConfig(weights={"l1": 1.0, "kl": 1e-6}), AdversarialConfig(), precision="bf16")
    output = side(*batch, plan())
    output.loss.backward()
    assert output.loss.dtype == output.reconstructions.dtype == torch.float32
    assert {parameter.grad.dtype for parameter in vae.parameters()} == {torch.float32}
    exact = GeneratorSide(vae, LossConfig(weights={"l1": 1.0, "kl": 1e-6}), AdversarialConfig())(*batch, plan())
    assert 0 < (exact.reconstructions - output.reconstructions).abs().mean() < 0.02
