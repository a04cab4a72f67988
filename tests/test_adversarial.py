"""train/adversarial.py: formulas, parity with latent-diffusion, and two processes against one."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from train.adversarial import GAN_LOSSES, LeCam, adaptive_weight, average_across_ranks, r1_penalty, ramp
from train.losses import kl, l1


def logits(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    real, fake = (torch.randn(4, 1, 3, 5, generator=generator) * 2 for _ in range(2))
    return real.requires_grad_(), fake.requires_grad_()


def test_hinge_is_latent_diffusions() -> None:
    real, fake = logits(0)
    expected = 0.5 * (torch.mean(F.relu(1.0 - real)) + torch.mean(F.relu(1.0 + fake)))
    torch.testing.assert_close(GAN_LOSSES["hinge"].discriminator_loss(real, fake), expected)
    torch.testing.assert_close(GAN_LOSSES["hinge"].generator_loss(fake), -fake.mean())


def test_non_saturating_is_the_cross_entropy() -> None:
    real, fake = logits(1)
    loss = GAN_LOSSES["non_saturating"]
    ones, zeros = torch.ones_like(real), torch.zeros_like(fake)
    cross_entropy = F.binary_cross_entropy_with_logits
    expected = 0.5 * (cross_entropy(real, ones) + cross_entropy(fake, zeros))
    torch.testing.assert_close(loss.discriminator_loss(real, fake), expected)
    torch.testing.assert_close(loss.generator_loss(fake), cross_entropy(fake, ones))
    assert math.isfinite(loss.discriminator_loss(real.detach() * 0 - 1e4, fake.detach() * 0 + 1e4).item())


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_signs_dtype_and_reach(name: str) -> None:
    """The generator raises fake logits; the discriminator lowers them and raises the real ones."""
    real, fake = logits(2)
    loss = GAN_LOSSES[name]
    (up,) = torch.autograd.grad(loss.generator_loss(fake), fake)
    assert (up < 0).all()
    of_real, of_fake = torch.autograd.grad(loss.discriminator_loss(real, fake), (real, fake))
    assert (of_real <= 0).all()
    assert (of_real < 0).any()
    assert (of_fake >= 0).all()
    assert (of_fake > 0).any()
    assert loss.generator_loss(fake.bfloat16()).dtype == torch.float32
    assert loss.discriminator_loss(real.bfloat16(), fake.bfloat16()).dtype == torch.float32


def test_r1_of_a_linear_discriminator() -> None:
    weight = torch.randn(3, 6, 6)
    images = torch.randn(4, 3, 6, 6, requires_grad=True)
    one_logit = (images * weight).sum(dim=(1, 2, 3))
    torch.testing.assert_close(r1_penalty(images, one_logit), weight.square().sum())
    patches = (images * weight).sum(1, keepdim=True)
    torch.testing.assert_close(r1_penalty(images, patches), (weight / 36).square().sum())
    scale = torch.tensor([1.0, 2.0, 3.0, 0.0])
    torch.testing.assert_close(r1_penalty(images, one_logit * scale), weight.square().sum() * 14 / 4)


def test_r1_can_be_differentiated() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Conv2d(4, 1, 3)).double()
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    weight = network[0].weight
    (gradient,) = torch.autograd.grad(r1_penalty(images, network(images)), weight)
    with torch.no_grad():
        weight[1, 2, 0, 0] += 1e-2
    above = r1_penalty(images, network(images)).item()
    with torch.no_grad():
        weight[1, 2, 0, 0] -= 2e-2
    below = r1_penalty(images, network(images)).item()
    assert gradient[1, 2, 0, 0].item() == pytest.approx((above - below) / 2e-2, rel=1e-2)


def test_lecam_by_hand() -> None:
    lecam = LeCam(decay=0.9)
    real, fake = torch.tensor([[1.0, 3.0]]), torch.tensor([[-1.0, 0.0]])
    assert lecam.anchors() == (0, 0)
    lecam.update(real, fake)
    torch.testing.assert_close(torch.stack(lecam.anchors()), torch.tensor([2.0, -0.5]))
    expected = ((1.5**2 + 3.5**2) + (3.0**2 + 2.0**2)) / 2
    torch.testing.assert_close(lecam.penalty(real, fake), torch.tensor(expected))

    lecam.update(real + 1, fake)
    torch.testing.assert_close(lecam.anchors()[0], torch.tensor((0.09 * 2 + 0.1 * 3) / 0.19))
    assert lecam.penalty(torch.tensor([[-9.0]]), torch.tensor([[9.0]])) == 0


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30), st.floats(0, 0.999))
def test_lecam_anchors_are_weighted_means(values: list[float], decay: float) -> None:
    lecam = LeCam(decay)
    for value in values:
        lecam.update(torch.tensor([value]), torch.tensor([-value]))
    weights = [decay ** (len(values) - 1 - index) for index in range(len(values))]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    real, fake = lecam.anchors()
    assert real.item() == pytest.approx(expected, abs=1e-3)
    assert fake.item() == -real.item()


def test_lecam_gradient_and_state() -> None:
    lecam = LeCam()
    real, fake = logits(3)
    lecam.update(real, fake)
    of_real, of_fake = torch.autograd.grad(lecam.penalty(real, fake), (real, fake))
    assert (of_real >= 0).all()
    assert of_real.any()
    assert (of_fake <= 0).all()
    assert of_fake.any()
    assert list(lecam.parameters()) == []
    other = LeCam()
    assert other.penalty(real, fake) != lecam.penalty(real, fake)
    other.load_state_dict(lecam.state_dict())
    assert torch.equal(other.penalty(real, fake), lecam.penalty(real, fake))
    with pytest.raises(ValueError, match=r"decay: expected a number in \[0, 1\), found 1"):
        LeCam(1.0)


class Toy(nn.Module):
    """A decoder's last layer, and a discriminator after it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.body, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.discriminator = nn.Conv2d(3, 1, 4, stride=2)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        images = self.last(torch.tanh(self.body(latents)))
        return images, self.discriminator(images)


def joint_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(12)
    return torch.randn(4, 2, 8, 8, generator=generator), torch.randn(4, 3, 8, 8, generator=generator)


def weigh(toy: Toy, latents: Tensor, images: Tensor, scale: float = 1.0) -> Tensor:
    reconstructions, fake = toy(latents)
    loss = scale * l1(images, reconstructions)
    return adaptive_weight(loss, GAN_LOSSES["hinge"].generator_loss(fake), toy.last.weight)


def test_adaptive_weight_is_latent_diffusions() -> None:
    """calculate_adaptive_weight on LDM's sums; ours, on means, is smaller by 3*H*W."""
    toy, (latents, images) = Toy(), joint_batch()
    reconstructions, fake = toy(latents)
    nll_loss = torch.sum(torch.abs(images - reconstructions)) / images.shape[0]
    nll_grads = torch.autograd.grad(nll_loss, toy.last.weight, retain_graph=True)[0]
    g_grads = torch.autograd.grad(-torch.mean(fake), toy.last.weight, retain_graph=True)[0]
    expected = torch.clamp(torch.norm(nll_grads) / (torch.norm(g_grads) + 1e-4), 0.0, 1e4)

    values = images[0].numel()
    weight = weigh(toy, latents, images)
    torch.testing.assert_close(weight * values, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(weigh(toy, latents, images, scale=values), expected, rtol=1e-5, atol=0)
    assert not weight.requires_grad


def test_latent_diffusions_whole_generator_loss() -> None:
    """Reconstruction + KL + adaptively weighted adversarial term, LDM's sums against our means."""
    toy, (latents, images) = Toy(), joint_batch()
    mean, logvar = torch.randn(4, 4, 1, 1), torch.randn(4, 4, 1, 1)
    reconstructions, fake = toy(latents)
    nll = torch.sum(torch.abs(images - reconstructions)) / 4
    kl_loss = 0.5 * torch.sum(mean**2 + logvar.exp() - 1.0 - logvar) / 4
    norms = [torch.norm(torch.autograd.grad(v, toy.last.weight, retain_graph=True)[0]) for v in (nll, -fake.mean())]
    theirs = nll + 1e-6 * kl_loss + 0.5 * (norms[0] / (norms[1] + 1e-4)) * -fake.mean()

    values = images[0].numel()
    pixel, gan = l1(images, reconstructions), GAN_LOSSES["hinge"].generator_loss(fake)
    ours = pixel + 1e-6 * kl(mean, logvar, values) + 0.5 * adaptive_weight(pixel, gan, toy.last.weight) * gan
    torch.testing.assert_close(ours * values, theirs, rtol=1e-5, atol=0)


def test_adaptive_weight_at_its_ends() -> None:
    toy, (latents, images) = Toy(), joint_batch()
    reconstructions, fake = toy(latents)
    pixel, gan = l1(images, reconstructions), -fake.mean()
    layer = toy.last.weight
    assert adaptive_weight(pixel, 0 * gan, layer, ceiling=1e9).item() == pytest.approx(
        1e4 * torch.autograd.grad(pixel, layer, retain_graph=True)[0].norm().item(), rel=1e-5
    )
    assert adaptive_weight(1e9 * pixel, gan, layer) == 1e4
    assert adaptive_weight(pixel, gan, layer, ceiling=0.25e-3) == pytest.approx(0.25e-3)
    assert adaptive_weight(0 * pixel, gan, layer) == 0
    (pixel + gan).backward()  # both graphs are still there
    assert layer.grad is not None


def _rank(rank: int, folder: str) -> None:
    """One of two processes with half of the joint batch each."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        latents, images = (part.chunk(2)[rank] for part in joint_batch())
        weight = weigh(Toy(), latents, images)
        lecam = LeCam()
        for seed in (4, 5):
            lecam.update(*(side.chunk(2)[rank] for side in logits(seed)))
        torch.save({"weight": weight, "lecam": lecam.state_dict()}, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_equal_one_with_the_joint_batch(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    toy, (latents, images) = Toy(), joint_batch()
    joint = weigh(toy, latents, images)
    assert torch.equal(first["weight"], second["weight"])
    torch.testing.assert_close(first["weight"], joint, rtol=1e-5, atol=0)
    halves = [weigh(toy, latents.chunk(2)[rank], images.chunk(2)[rank]) for rank in range(2)]
    assert all(abs(half - joint) > 1e-3 * joint for half in halves), "weights of the halves would have passed as well"

    lecam = LeCam()
    for seed in (4, 5):
        lecam.update(*logits(seed))
    for name, value in lecam.state_dict().items():
        assert torch.equal(first["lecam"][name], second["lecam"][name])
        torch.testing.assert_close(first["lecam"][name], value, rtol=1e-5, atol=1e-7)


def test_one_process_needs_no_process_group() -> None:
    value = torch.randn(3, requires_grad=True)
    assert torch.equal(average_across_ranks(value), value)
    assert not average_across_ranks(value).requires_grad


def test_ramp() -> None:
    assert [ramp(step, 10, 4) for step in (0, 10, 11, 12, 14, 99)] == [0, 0, 0.25, 0.5, 1, 1]
    assert [ramp(step, 10, 0) for step in (0, 9, 10, 11)] == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="length: expected 0 or more steps, found -1"):
        ramp(0, 0, -1)


@given(step=st.integers(0, 10**6), start=st.integers(0, 10**6), length=st.integers(0, 10**6))
def test_ramp_rises_within_bounds(step: int, start: int, length: int) -> None:
    assert 0 <= ramp(step, start, length) <= ramp(step + 1, start, length) <= 1
    assert ramp(start + length, start, length) == 1
