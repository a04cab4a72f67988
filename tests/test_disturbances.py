"""Disturbed latents decoded: closed forms on a pooling model, noise that belongs to its image, and growth with size."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from stand_in_models import PoolingModel, pictures
from torch import Tensor
from torch.testing import assert_close

from eval.images import NamedImage
from eval.latents.disturbances import DecodedError, mean_errors, unit_noise, with_noise
from eval.latents.equivariance import transforms
from eval.latents.measure import (
    Disturbances,
    LatentsError,
    batches,
    decode_disturbed,
    require_divisible,
    survey,
)
from eval.latents.models import CodecModel, Posterior
from eval.latents.record import decoded_fields, number, scale_fields, survey_fields
from eval.metrics import psnr
from latentcodec.codec import LatentCodec
from latentcodec.scaling import Scaling
from latentcodec.vae.calibration import RunningStatistics
from latentcodec.vae.presets import build_vae

EVERYTHING = Disturbances(transforms([0.5], [90]), noise=(0.1, 0.3, 1.0), keep=(0.75, 0.25))


@pytest.fixture(scope="module")
def images() -> list[NamedImage]:
    return pictures(5)


def small_vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return build_vae("tiny-f8d4", block_out_channels=(8, 8, 16, 16), norm_num_groups=4).eval()


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return small_vae()


def record(model: object, images: list[NamedImage], batch: int, disturbances: Disturbances = EVERYTHING) -> dict:
    found = survey(model, batches(images, batch))  # type: ignore[arg-type]
    decoded = decode_disturbed(model, batches(images, batch), found.distribution.std(), disturbances)  # type: ignore[arg-type]
    return survey_fields(found, images[0].pixels.size // 3) | decoded_fields(decoded, found.distribution)


def flat(values: object) -> list[object]:
    """Every leaf, in order."""
    if isinstance(values, dict):
        return [leaf for key in sorted(values) for leaf in flat(values[key])]
    return [leaf for value in values for leaf in flat(value)] if isinstance(values, list) else [values]


def test_a_decoded_error_is_psnr_and_root_mean_square() -> None:
    random = np.random.default_rng(0)
    original, plain, disturbed = random.integers(0, 256, (3, 9, 7, 3), dtype=np.uint8)
    found = DecodedError.of(original, plain, disturbed)
    assert found.psnr == psnr(original, disturbed)
    assert found.loss == psnr(original, plain) - psnr(original, disturbed)
    assert found.change == pytest.approx(255 / 10 ** (psnr(plain, disturbed) / 20))
    perfect = DecodedError.of(original, original, original)
    assert (perfect.psnr, perfect.loss, perfect.change) == (math.inf, 0, 0)
    assert mean_errors([found, perfect])["change"] == pytest.approx(found.change / 2)


def test_noise_belongs_to_the_image_and_the_seed() -> None:
    both = unit_noise(["a", "b"], (4, 32, 32))
    assert torch.equal(both.flip(0), unit_noise(["b", "a"], (4, 32, 32)))
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(both, unit_noise(["a", "b"], (4, 32, 32), seed=1))
    assert both.mean().item() == pytest.approx(0, abs=0.05)
    assert both.std().item() == pytest.approx(1, abs=0.05)


def test_noise_has_the_size_of_each_channel() -> None:
    latents, noise = torch.randn(3, 2, 40, 40), torch.randn(3, 2, 40, 40)
    noisy = with_noise(latents, noise, torch.tensor([2.0, 10.0]).double(), 0.5)
    assert_close(noisy[:, 0], latents[:, 0] + noise[:, 0])
    assert_close(noisy[:, 1], latents[:, 1] + 5 * noise[:, 1])


def test_noise_on_pooled_latents_changes_the_picture_by_as_much(images: list[NamedImage]) -> None:
    """Decoding repeats latents, so the change is the noise in 8-bit levels; grey images keep clear of black and white."""
    grey = [NamedImage(image.id, image.pixels // 4 + 96) for image in images]
    model = PoolingModel()
    std = survey(model, batches(grey, 5)).distribution.std()
    found = decode_disturbed(model, batches(grey, 5), std, Disturbances(noise=(0.2,)))
    change = math.sqrt(np.mean([error.change**2 for error in found.noise[0.2]]))
    assert change == pytest.approx(0.2 * 127.5 * std.square().mean().sqrt().item(), rel=0.1)


def test_errors_grow_with_noise_and_with_what_is_cut(images: list[NamedImage], vae: AutoencoderKL) -> None:
    for model in (PoolingModel(), CodecModel(LatentCodec(vae))):
        found = record(model, images, 5)
        noise = [found["noise"][size]["change"] for size in ("0.1", "0.3", "1")]
        assert 0 < noise[0] < noise[1] < noise[2]
        assert 0 < found["cut"]["0.75"]["change"] < found["cut"]["0.25"]["change"]
    pooled = record(PoolingModel(), images, 5)
    losses = [pooled["noise"][size]["loss"] for size in ("0.1", "0.3", "1")]
    assert 0 < losses[0] < losses[1] < losses[2]
    assert 0 < pooled["cut"]["0.75"]["loss"] < pooled["cut"]["0.25"]["loss"]


def test_cutting_nothing_that_is_there_costs_nothing() -> None:
    plain = [NamedImage(str(level), np.full((32, 32, 3), level, np.uint8)) for level in (40, 200)]
    model = PoolingModel()
    found = decode_disturbed(model, batches(plain, 2), torch.ones(3).double(), Disturbances(keep=(0.1,)))
    assert [error.loss for error in found.cut[0.1]] == [0, 0]


def test_order_and_batches_change_nothing(images: list[NamedImage], vae: AutoencoderKL) -> None:
    model = CodecModel(LatentCodec(vae))
    one_by_one = flat(record(model, images, 1))
    for other in (record(model, images[::-1], 2), record(model, [*images[2:], *images[:2]], 5)):
        assert flat(other) == pytest.approx(one_by_one, rel=1e-6, abs=1e-9)


def test_a_codec_encodes_and_decodes_as_its_network(images: list[NamedImage], vae: AutoencoderKL) -> None:
    model = CodecModel(LatentCodec(vae))
    (part,) = batches(images[:1], 4)
    with torch.inference_mode():
        posterior, expected = model.encode(part.images), vae.encode(part.images).latent_dist
        assert torch.equal(posterior.mean, expected.mean)
        assert torch.equal(posterior.logvar, expected.logvar)
        assert torch.equal(model.decode(posterior.mean), vae.decode(expected.mean).sample)


def test_kl_in_bits_and_per_pixel(images: list[NamedImage]) -> None:
    found = record(PoolingModel(logvar=-4.0), images, 3, replace(EVERYTHING, transforms={}))
    mean = torch.cat([PoolingModel().encode(part.images).mean for part in batches(images, 5)]).double()
    nats = (0.5 * (mean.square() + math.exp(-4) - 1 + 4)).flatten(1).sum(1).mean().item()
    assert found["kl_nats"] == pytest.approx(nats)
    assert found["kl_bits"] == pytest.approx(nats / math.log(2))
    assert found["kl_bits_per_pixel"] == pytest.approx(nats / math.log(2) / 64**2)
    assert found["posterior_share"] == pytest.approx(
        math.exp(-2) / math.sqrt(mean.var(dim=(0, 2, 3), correction=0).mean().item())
    )
    assert sum(channel["kl_nats"] for channel in found["per_channel"]) == pytest.approx(nats)


def test_latents_that_are_not_finite_are_named(images: list[NamedImage]) -> None:
    class Overflowing(PoolingModel):
        def encode(self, images: Tensor) -> Posterior:
            posterior = super().encode(images)
            posterior.mean[1, 0, 0, 0] = torch.nan
            return posterior

    with pytest.raises(LatentsError, match=f"{images[1].id}: latents are NaN or infinite"):
        survey(Overflowing(), batches(images, 5))


def test_errors_of_a_model_name_the_image(images: list[NamedImage]) -> None:
    overflowing = small_vae()
    with torch.no_grad():
        overflowing.encoder.conv_in.weight.mul_(1e7)
    with pytest.raises(LatentsError, match=rf"{images[0].id}: .* not finite in torch.float16"):
        survey(CodecModel(LatentCodec(overflowing.half())), batches(images, 1))
    other = NamedImage("other", images[1].pixels[:32])
    with pytest.raises(LatentsError, match="other: spectra: expected maps of one size"):
        survey(PoolingModel(), batches([images[0], other], 1))


def test_decoded_pixels_that_are_not_finite_are_an_error(images: list[NamedImage]) -> None:
    class Overflowing(PoolingModel):
        def decode(self, latents: Tensor) -> Tensor:
            return super().decode(latents) * torch.inf

    with pytest.raises(LatentsError, match=f"{images[0].id}.*NaN or infinity"):
        decode_disturbed(Overflowing(), batches(images, 5), torch.ones(3).double(), EVERYTHING)


@pytest.mark.parametrize(
    "scaling", [Scaling(0.3), Scaling(0.3, shift=-2.0), Scaling(2.0, mean=(1.0, 2.0), std=(3.0, 0.5))]
)
def test_scaled_figures_are_those_of_scaled_latents(scaling: Scaling) -> None:
    raw = torch.randn(3, 2, 9, 9, dtype=torch.float64) * 4 + 1
    found = scale_fields(RunningStatistics.of(raw), scaling)
    latents = scaling.apply(raw)
    assert (found["scaled_mean"], found["scaled_std"]) == pytest.approx((latents.mean().item(), latents.std().item()))
    assert found["measured_scaling_factor"] == pytest.approx(1 / raw.std().item())


def test_no_images_are_an_error() -> None:
    with pytest.raises(LatentsError, match="at least one"):
        survey(PoolingModel(), [])
    with pytest.raises(LatentsError, match="at least one"):
        decode_disturbed(PoolingModel(), [], torch.ones(3).double(), EVERYTHING)


def test_sizes_must_suit_every_model_and_scale() -> None:
    require_divisible(128, {"a": 8, "b": 16}, [0.5])
    with pytest.raises(LatentsError, match="b takes multiples of 16 pixels, found 72"):
        require_divisible(72, {"a": 8, "b": 16}, [])
    with pytest.raises(LatentsError, match="b has 8 latent positions"):
        require_divisible(128, {"a": 8, "b": 16}, [0.5, 0.25])


def test_figures_that_json_cannot_hold() -> None:
    assert (number(1.5), number(math.inf), number(math.nan)) == (1.5, "inf", None)
