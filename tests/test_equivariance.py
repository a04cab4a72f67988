"""Equivariance: transforms that images and latents share, and an error that is 0 where it must be and grows as planted."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in_models import PoolingModel, pictures
from torch import Tensor
from torch.testing import assert_close

from eval.latents.disturbances import relative_change
from eval.latents.equivariance import RunningEquivariance, transforms
from latentcodec.images.pixels import to_tensor
from latentcodec.vae.equivariance import Transform, area_weights, resample_area

EXACT = transforms([0.5, 0.25], [90, 180, 270])
EVERY = EXACT | transforms([0.75, 11 / 32], [])
SIZES = (0.01, 0.03, 0.1, 0.3, 1.0)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.stack([to_tensor(image.pixels) for image in pictures(4, 128)])


def latent_error(model: PoolingModel, images: Tensor, transform: Transform) -> float:
    latents = model.encode(images).mean
    found = RunningEquivariance.of(model, images, latents, transform)
    return found.latent_error(latents.double().var(dim=(0, 2, 3)))


@given(old=st.integers(1, 40), new=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_area_weights_are_shares_of_overlapping_intervals(old: int, new: int) -> None:
    weights = area_weights(old, new).numpy()
    fine = np.arange(old * new)  # both grids have their edges on this one
    expected = np.zeros((new, old))
    np.add.at(expected, (fine // old, fine // new), 1 / old)
    np.testing.assert_allclose(weights, expected, atol=1e-12)


def test_area_resampling_by_whole_numbers_is_pooling() -> None:
    maps = torch.randn(2, 3, 12, 18)
    assert_close(resample_area(maps, (4, 6)), F.avg_pool2d(maps, 3))
    assert_close(resample_area(maps, (12, 18)), maps, rtol=0, atol=0)


@pytest.mark.parametrize("name", EXACT)
def test_transforms_commute_with_the_means_of_blocks(name: str, images: Tensor) -> None:
    transform = EVERY[name]
    assert_close(F.avg_pool2d(transform.images(images), 8), transform.latents(F.avg_pool2d(images, 8)))


@pytest.mark.parametrize("name", EXACT)
def test_a_pooling_encoder_has_no_error(name: str, images: Tensor) -> None:
    model = PoolingModel()
    assert latent_error(model, images, EVERY[name]) < 1e-6
    (*_, last) = RunningEquivariance.of(model, images, model.encode(images).mean, EVERY[name]).decoded
    assert last.loss == pytest.approx(0, abs=0.01)  # rounding to 8 bits may fall on either side
    assert last.change < 0.1


def test_scales_that_cut_through_blocks_have_an_error_of_their_own(images: Tensor) -> None:
    for name in EVERY.keys() - EXACT.keys():
        assert 0.001 < latent_error(PoolingModel(), images, EVERY[name]) < 0.3


def test_a_pooling_encoder_turned_has_no_error_to_the_bit(images: Tensor) -> None:
    """Whole numbers, whose sums are the same in any order."""
    levels = torch.round(images * 8)  # beyond [-1, 1], which the encoder does not mind
    model = PoolingModel()
    for turns in (1, 2, 3):
        turned = torch.rot90(levels, turns, dims=(2, 3))
        assert torch.equal(model.encode(turned).mean, torch.rot90(model.encode(levels).mean, turns, dims=(2, 3)))


@pytest.mark.parametrize("name", EXACT)
def test_the_error_grows_with_a_planted_break(name: str, images: Tensor) -> None:
    latents = [latent_error(PoolingModel(sideways=size), images, EVERY[name]) for size in SIZES]
    assert latents[0] > 1e-4
    assert latents == sorted(latents)
    assert len(set(latents)) == len(SIZES)


def test_the_decoded_error_grows_with_a_planted_break(images: Tensor) -> None:
    changes = []
    for size in (0.0, *SIZES):
        model = PoolingModel(sideways=size)
        found = RunningEquivariance.of(model, images, model.encode(images).mean, EVERY["turn 90"])
        changes.append(sum(error.change for error in found.decoded))
    assert changes == sorted(changes)
    assert changes[0] < 0.1 * len(images)
    assert changes[-1] > 10 * len(images)


def test_a_break_of_scaling_alone_is_not_one_of_turning(images: Tensor) -> None:
    errors = {
        name: [latent_error(PoolingModel(squares=size), images, EVERY[name]) for size in SIZES]
        for name in ("scale 0.5", "turn 90", "turn 180")
    }
    assert max(errors["turn 90"] + errors["turn 180"]) < 1e-6
    assert errors["scale 0.5"] == sorted(errors["scale 0.5"])
    assert errors["scale 0.5"][-1] > 0.01


@pytest.mark.parametrize("size", SIZES)
def test_the_error_of_half_a_turn_is_what_was_planted(size: int, images: Tensor) -> None:
    """Half a turn swaps left and right: E(tau(x)) - tau(E(x)) is -2 times the planted term."""
    model = PoolingModel(sideways=size)
    planted = 2 * size * model.difference(images).double()
    spread = model.encode(images).mean.double().var(dim=(0, 2, 3))
    expected = math.sqrt(planted.square().mean(dim=(0, 2, 3)).sum() / spread.sum())
    assert latent_error(model, images, EVERY["turn 180"]) == pytest.approx(expected, rel=1e-4)


def test_the_error_does_not_depend_on_the_scale_of_the_latents(images: Tensor) -> None:
    class Scaled(PoolingModel):
        def encode(self, images: Tensor) -> object:  # type: ignore[override]
            posterior = super().encode(images)
            return type(posterior)(1000 * posterior.mean + 7, posterior.logvar)

    plain, scaled = (latent_error(kind(sideways=0.3), images, EVERY["scale 0.5"]) for kind in (PoolingModel, Scaled))
    assert scaled == pytest.approx(plain, rel=1e-4)


def test_parts_merge_to_the_whole(images: Tensor) -> None:
    model, transform = PoolingModel(sideways=0.2), EVERY["scale 0.75"]
    latents = model.encode(images).mean
    whole = RunningEquivariance.of(model, images, latents, transform)
    first, rest = (
        RunningEquivariance.of(model, images[part], latents[part], transform) for part in (slice(1), slice(1, None))
    )
    merged = rest.merge(first)
    assert merged.positions == whole.positions
    assert_close(merged.squared_error, whole.squared_error)
    assert sorted(error.psnr for error in merged.decoded) == pytest.approx(sorted(e.psnr for e in whole.decoded))
    variance = latents.double().var(dim=(0, 2, 3))
    assert_close(merged.channel_errors(variance), whole.channel_errors(variance))


def test_relative_change_of_other_latents_is_the_root_of_two() -> None:
    one, other = torch.randn(2, 4, 100_000).double()
    assert relative_change((one - other).square().mean(1), one.var(1)) == pytest.approx(math.sqrt(2), rel=0.01)
    assert relative_change(torch.zeros(4), torch.zeros(4)) == 0
    assert relative_change(torch.ones(4), torch.zeros(4)) == math.inf


@pytest.mark.parametrize(
    ("scales", "turns", "message"),
    [
        ([1.0], [], "scales: expected multiples of 1/32 between 0 and 1, found 1"),
        ([0.3], [], "scales: .* found 0.3"),
        ([], [45], "turns: expected 90, 180 or 270 degrees, found 45"),
    ],
)
def test_other_transforms_are_refused(scales: list[float], turns: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transforms(scales, turns)
