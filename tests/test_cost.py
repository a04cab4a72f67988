"""What a config costs, counted without computing it."""

from pathlib import Path

import pytest
import torch

from latentcodec.vae.cost import vae_cost
from latentcodec.vae.loading import save_vae
from latentcodec.vae.presets import build_vae
from train.config import TrainConfig, load_preset
from train.cost import training_cost


def plain(*overrides: str) -> TrainConfig:
    return load_preset(
        "demo",
        "--mixed_precision",
        "no",
        "--loss.weights",
        "{l1: 1.0}",
        "--data.crop",
        "64",
        "--batch_size",
        "2",
        *overrides,
    )


def test_a_step_is_three_times_the_forward_pass() -> None:
    """Backward costs twice the forward, but for the first layer, which needs no gradient to the image."""
    forward = vae_cost(build_vae("demo-f8d16"), 64, 64)
    cost = training_cost(plain())
    assert cost.gmac_per_image == pytest.approx(3 * (forward.encode_gmac + forward.decode_gmac), rel=0.02)
    assert cost.vae_parameters == forward.parameters


def test_what_is_fine_tuned_costs_as_much_as_from_scratch(tmp_path: Path) -> None:
    save_vae(build_vae("demo-f8d16"), tmp_path / "vae")
    assert training_cost(plain("--model.init_from", str(tmp_path / "vae"))) == training_cost(plain())


def test_activations_are_those_that_autograd_keeps() -> None:
    cost = training_cost(plain())
    vae, images = build_vae("demo-f8d16"), torch.zeros(2, 3, 64, 64)
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in vae.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        vae.decode(vae.encode(images).latent_dist.sample()).sample.abs().mean()
    measured = sum(size for pointer, size in kept.items() if pointer not in weights)
    assert cost.activations_gib * 2**30 == pytest.approx(measured, rel=0.05)


def test_checkpointing_keeps_less_and_works_more() -> None:
    before, after = training_cost(plain()), training_cost(plain("--gradient_checkpointing", "true"))
    assert after.activations_gib < 0.6 * before.activations_gib
    assert after.gmac_per_image > 1.2 * before.gmac_per_image


def test_every_part_is_counted() -> None:
    whole = training_cost(plain("--adversarial.discriminator", "patch", "--loss.weights", "{l1: 1.0, lpips: 1.0}"))
    assert whole.discriminator_parameters > 2e6
    assert whole.gmac_per_image > training_cost(plain()).gmac_per_image
    assert "discriminator" in whole.describe()
    assert "2 images at a time" in whole.describe()
