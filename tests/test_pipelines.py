"""Swapping a VAE into every family of pipelines: what is accepted and refused, and that the picture is the right one."""

import copy
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMPipeline, DiffusionPipeline, UNet2DModel
from small_pipelines import SMALL_FAMILIES, small_unet, small_vae
from torch import Tensor

from latentcodec.pipeline_facts import facts_of
from latentcodec.pipelines import SwapError, SwapWarning, swap_vae
from latentcodec.vae.fingerprint import weights_fingerprint
from latentcodec.vae.loading import save_vae

SCALE = {"sd3": {"scaling_factor": 1.5, "shift_factor": 0.06}, "flux": {"scaling_factor": 0.36, "shift_factor": 0.11}}


def new_vae(family: str, **overrides: Any) -> AutoencoderKL:
    """Other weights and another scale than the pipeline's own VAE has, of the right kind for the family."""
    right = {"latent_channels": SMALL_FAMILIES[family].channels, "scaling_factor": 0.4} | SCALE.get(family, {})
    return small_vae(**(right | overrides))


def decoder_of(vae: AutoencoderKL, **config: Any) -> AutoencoderKL:
    """A copy with another decoder, as decoder-only training leaves it."""
    other = copy.deepcopy(vae)
    with torch.no_grad():
        other.decoder.conv_out.weight.mul_(0.5)
    other.register_to_config(**config)
    return other


@contextmanager
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", SwapWarning)
        yield


def swap(pipe: DiffusionPipeline, vae: Any, **options: Any) -> Any:
    """The swap, where its warnings are not what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SwapWarning)
        return swap_vae(pipe, vae, **options)


def warned(pipe: DiffusionPipeline, vae: Any, *sentences: str, **options: Any) -> Any:
    """A swap that warns of exactly these, in this order (regular expressions)."""
    with pytest.warns(SwapWarning) as record:
        report = swap_vae(pipe, vae, **options)
    assert [str(warning.message) for warning in record] == report.warnings
    assert len(report.warnings) == len(sentences), report.warnings
    for expected, found in zip(sentences, report.warnings, strict=True):
        assert re.search(expected, found)
    return report


# --- accepted, and decoded right -------------------------------------------------------------------------------------


def by_hand(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """The picture in [0, 1] that the config of a VAE promises for scaled latents."""
    raw = latents / vae.config.scaling_factor
    if vae.config.latents_std is not None:
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        raw = latents * std / vae.config.scaling_factor + mean
    if vae.config.shift_factor is not None:
        raw = raw + vae.config.shift_factor
    with torch.no_grad():
        return (vae.decode(raw).sample * 0.5 + 0.5).clamp(0, 1)


def latents_of(family: str, pipe: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The latents at the end of a run. DiT does not give them out, so there they are the scheduler's last word."""
    if family != "dit":
        return SMALL_FAMILIES[family].latents(SMALL_FAMILIES[family].run(pipe, "latent"))
    steps: list[Tensor] = []
    step = pipe.scheduler.step

    def recorded(*arguments: Any, **options: Any) -> Any:
        result = step(*arguments, **options)
        steps.append(result.prev_sample)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(pipe.scheduler, "step", recorded)
        SMALL_FAMILIES[family].run(pipe, "pt")
    return steps[-1]


@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_the_decoded_picture_equals_decoding_by_hand(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = SMALL_FAMILIES[family].build()
    before = SMALL_FAMILIES[family].run(pipe, "pt")
    vae = new_vae(family)
    report = swap(pipe, vae)
    assert pipe.vae is vae
    assert report.known
    assert report.changes["scaling_factor"][1] == vae.config.scaling_factor
    assert report.changes["fingerprint"][1] == weights_fingerprint(vae)
    assert report.refreshed == {}
    picture = SMALL_FAMILIES[family].run(pipe, "pt")
    expected = by_hand(vae, latents_of(family, pipe, monkeypatch))
    if family == "dit":  # which multiplies by 1 / scaling_factor: the last bit may differ
        torch.testing.assert_close(picture, expected, rtol=0, atol=1e-5)
    else:
        assert torch.equal(picture, expected)
    assert not torch.allclose(picture, before, atol=1e-3)


@pytest.mark.parametrize("family", ["sdxl", "sdxl img2img"])
def test_sdxl_reads_mean_and_deviation_of_each_channel(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = SMALL_FAMILIES[family].build()
    statistics = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.0, 2.0, 0.5, 4.0], "scaling_factor": 1.0}
    vae = new_vae(family, **statistics)
    assert not any("scaling_factor is 1.0" in sentence for sentence in swap(pipe, vae).warnings)
    picture = SMALL_FAMILIES[family].run(pipe, "pt")
    assert torch.equal(picture, by_hand(vae, latents_of(family, pipe, monkeypatch)))


def test_a_source_is_loaded(tmp_path: Path) -> None:
    pipe = SMALL_FAMILIES["sd"].build()
    vae = new_vae("sd")
    save_vae(vae, tmp_path / "vae")
    swap(pipe, tmp_path / "vae")
    assert weights_fingerprint(pipe.vae) == weights_fingerprint(vae)
    with pytest.raises(SwapError, match="expected an AutoencoderKL or a source for load_vae, found AutoencoderTiny"):
        swap_vae(pipe, AutoencoderTiny())


# --- refused, and nothing changed ------------------------------------------------------------------------------------

NARROW = ["sd", "sd img2img", "sd inpaint", "sdxl", "sdxl img2img", "pixart", "dit"]
STATISTICS = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
REFUSALS = [
    *[
        (family, {"latent_channels": 16}, r"the VAE has 16 latent channels.* works on latents of 4")
        for family in NARROW
    ],
    *[(family, {"latent_channels": 4}, r"the VAE has 4 latent channels.* works on latents of 16") for family in SCALE],
    *[
        (family, {"levels": 3}, r"each side 4 times smaller, the present one of \w+ 8 times")
        for family in SMALL_FAMILIES
    ],
    *[
        (family, {"shift_factor": None}, r"shift_factor is None, and \w+ adds it.*shift_factor=0\.0")
        for family in SCALE
    ],
    *[(family, {"shift_factor": 0.25}, r"shift_factor is 0\.25, and \w+ ignores it") for family in NARROW],
    *[(family, STATISTICS, r"latents_std are set, and \w+ ignores them") for family in NARROW if "xl" not in family],
    *[(family, STATISTICS, r"latents_std are set, and \w+ ignores them") for family in SCALE],
    ("sdxl", {"shift_factor": 0.25}, r"latents_mean=\[0\.25\] \* 4, latents_std=\[1\.0\] \* 4"),
    ("sdxl", {"latents_mean": [0.0] * 4}, r"latents_mean is set but latents_std is None"),
    ("sd", {"scaling_factor": 0.0}, r"scaling_factor: expected a positive number.*found 0\.0"),
    ("sd", {"scaling_factor": None}, r"scaling_factor: expected a positive number.*found None"),
    ("sd", {"in_channels": 4}, r"images of 4 channels and gives 3; \w+ works on 3"),
]


@pytest.mark.parametrize(("family", "overrides", "message"), REFUSALS)
def test_refused_with_both_values_named(family: str, overrides: dict[str, Any], message: str) -> None:
    pipe = SMALL_FAMILIES[family].build()
    before = dict(vars(pipe))
    vae = new_vae(family, **overrides)
    with pytest.raises(SwapError, match=message):
        swap_vae(pipe, vae)
    assert vars(pipe) == before
    assert vae.dtype == torch.float32


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(SwapError, match=r"16 latent channels.* Also: .*4 times smaller.* Also: shift_factor is 0\.1"):
        swap_vae(SMALL_FAMILIES["sd"].build(), small_vae(levels=3, latent_channels=16, shift_factor=0.1))


def test_sdxl_views_statistics_as_four_channels() -> None:
    pipe = SMALL_FAMILIES["sdxl"].build()
    pipe.unet = small_unet(16)
    vae = small_vae(latent_channels=16, latents_mean=[0.0] * 16, latents_std=[1.0] * 16)
    with pytest.raises(SwapError, match="for 16 channels, and StableDiffusionXLPipeline views them as 4"):
        swap_vae(pipe, vae)


def test_a_pipeline_that_offloads_is_refused() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    pipe = SMALL_FAMILIES["sd"].build()
    add_hook_to_module(pipe.vae, ModelHook())
    with pytest.raises(SwapError, match=r"moves its models between devices.*pipe\.remove_all_hooks\(\)"):
        swap_vae(pipe, new_vae("sd"))


def test_a_pipeline_without_a_vae_is_refused() -> None:
    unet = UNet2DModel(8, 3, 3, block_out_channels=(8,), norm_num_groups=4, down_block_types=("DownBlock2D",),
                       up_block_types=("UpBlock2D",), layers_per_block=1)  # fmt: skip
    with pytest.raises(SwapError, match="DDPMPipeline has no component vae, but scheduler, unet"):
        swap_vae(DDPMPipeline(unet, diffusers.DDPMScheduler()), small_vae())


# --- latents that the denoiser does not know -------------------------------------------------------------------------


def test_only_the_decoder_differs() -> None:
    pipe = SMALL_FAMILIES["sd"].build()
    with no_warnings():
        report = swap_vae(pipe, decoder_of(pipe.vae))
    assert report.latent_difference == 0
    assert any("only the decoder is another" in note for note in report.notes)
    assert list(report.changes) == ["fingerprint"]


def test_the_same_encoder_scaled_otherwise_is_warned_of() -> None:
    pipe = SMALL_FAMILIES["sd"].build()
    other = decoder_of(pipe.vae, scaling_factor=0.13025)
    report = warned(pipe, other, r"scaled otherwise \(scaling_factor 0\.18215 -> 0\.13025")
    assert report.latent_difference > 1 - 0.13025 / 0.18215
    assert report.changes["family"] == ("Stable Diffusion 1, 2; DiT", "Stable Diffusion XL; PixArt-Σ")
    assert "VAE scaling_factor: 0.18215 -> 0.13025" in str(report)


def test_another_encoder_is_warned_of_by_how_far_it_is() -> None:
    pipe = SMALL_FAMILIES["sd"].build()
    near = copy.deepcopy(pipe.vae)
    with torch.no_grad():
        near.encoder.conv_in.weight.mul_(1.001)
    with no_warnings():
        assert 0 < swap_vae(pipe, near).latent_difference < 0.1
    assert warned(pipe, small_vae(), r"not those of the old VAE \(difference \d\.").latent_difference > 1


def test_an_uncalibrated_scaling_factor_is_warned_of() -> None:
    pipe = SMALL_FAMILIES["sd"].build()
    pipe.vae.register_to_config(scaling_factor=1.0)
    warned(pipe, decoder_of(pipe.vae), r"scaling_factor is 1\.0, as if it had never been measured")


# --- types -----------------------------------------------------------------------------------------------------------


def loud(vae: AutoencoderKL, factor: float) -> AutoencoderKL:
    """Made so that its decoder's activations are some 6e3 times `factor`."""
    with torch.no_grad():
        vae.decoder.conv_in.bias.fill_(6e3 * factor)
    return vae


def test_float16_overflow_is_measured_and_refused() -> None:
    pipe = SMALL_FAMILIES["sd"].build().to(torch.float16)
    vae = loud(new_vae("sd"), 100)
    with pytest.raises(
        SwapError, match=r"black \(NaN\): the largest activation is .* in decoder\..*float16 ends at 65504"
    ):
        swap_vae(pipe, vae)
    assert vae.dtype == torch.float32
    warned(pipe, loud(vae, 4), "float16 is close to overflow", "not those of the old VAE")
    assert vae.dtype == torch.float16
    report = swap(pipe, loud(new_vae("sd"), 0.01))
    assert report.ranges is not None
    assert report.ranges.fits(torch.float16)
    assert not any("overflow" in sentence for sentence in report.warnings)


def test_an_image_of_ones_own_is_measured() -> None:
    pipe = SMALL_FAMILIES["sd"].build().to(torch.float16)
    white, black = (np.full((32, 48, 3), level, dtype=np.uint8) for level in (255, 0))
    peaks = [swap(pipe, decoder_of(new_vae("sd")), image=image).ranges.encoder.value for image in (white, black)]
    assert peaks[0] != peaks[1]


def test_sdxl_upcasts_a_vae_that_overflows_unless_told_not_to() -> None:
    pipe = SMALL_FAMILIES["sdxl"].build().to(torch.float16)
    report = swap(pipe, loud(new_vae("sdxl", force_upcast=True), 100))
    assert any("runs this VAE in float32 (force_upcast): the largest" in note for note in report.notes)
    with pytest.raises(SwapError, match=r"black \(NaN\).*set force_upcast=True"):
        swap_vae(pipe, loud(new_vae("sdxl", force_upcast=False), 100))
    without = {"use_quant_conv": False, "use_post_quant_conv": False}
    with pytest.raises(SwapError, match="force_upcast is True and the VAE has no post_quant_conv"):
        swap_vae(pipe, new_vae("sdxl", force_upcast=True, **without))
    swap(pipe, new_vae("sdxl", force_upcast=False, **without))


@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_the_vae_gets_a_type_that_works(family: str) -> None:
    pipe = SMALL_FAMILIES[family].build().to(torch.bfloat16)
    swap(pipe, new_vae(family))
    assert pipe.vae.dtype == torch.bfloat16
    assert SMALL_FAMILIES[family].run(pipe, "pt").isfinite().all()
    casts = facts_of(pipe).casts
    if casts:
        swap(pipe, new_vae(family), dtype=torch.float32)
    else:
        with pytest.raises(
            SwapError, match=r"dtype is torch\.float32, the \w+ has torch\.bfloat16, and \w+ does not cast"
        ):
            swap_vae(pipe, new_vae(family), dtype=torch.float32)
        pipe.vae = new_vae(family)  # as people do, and this is what comes of it
    if casts or family == "sdxl img2img":  # which, with force_upcast, casts the VAE when it encodes
        SMALL_FAMILIES[family].run(pipe, "pt")
    else:
        with pytest.raises(RuntimeError, match="type"):
            SMALL_FAMILIES[family].run(pipe, "pt")


def test_switches_are_taken_over() -> None:
    pipe = SMALL_FAMILIES["sd"].build()
    pipe.vae.enable_tiling()
    swap(pipe, new_vae("sd"))
    assert (pipe.vae.use_tiling, pipe.vae.use_slicing) == (True, False)


# --- what the pipeline had computed from the old VAE -----------------------------------------------------------------


@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_another_factor_is_accepted_on_request_and_refreshed(family: str) -> None:
    pipe = SMALL_FAMILIES[family].build()
    if hasattr(pipe, "image_processor"):
        pipe.image_processor.register_to_config(resample="nearest")  # the user's own choice, which must stay
    vae = new_vae(family, levels=3)
    report = warned(pipe, vae, "the latents cannot be compared", allow_other_factor=True)
    fresh = type(pipe)(**pipe.components)  # what diffusers would compute
    for name, value in vars(fresh).items():
        if isinstance(value, int):
            assert getattr(pipe, name) == value, name
        if name.endswith("_processor"):
            expected = dict(value.config) | ({"resample": "nearest"} if name == "image_processor" else {})
            assert dict(getattr(pipe, name).config) == expected, name
    if family != "dit":
        assert report.refreshed["vae_scale_factor"] == (8, 4)
        assert "refreshed vae_scale_factor: 8 -> 4" in str(report)
    else:
        assert report.refreshed == {}
        assert pipe.labels == {"carp": 0, "fish": 0, "cat": 1}
    assert SMALL_FAMILIES[family].run(pipe, "pt").shape[-2:] == (32, 32)


def test_a_vae_set_by_hand_is_refreshed_too() -> None:
    pipe = SMALL_FAMILIES["sd inpaint"].build()
    pipe.vae = small_vae(levels=3)
    assert pipe.vae_scale_factor == 8
    report = swap(pipe, decoder_of(pipe.vae))
    assert pipe.vae_scale_factor == pipe.mask_processor.config.vae_scale_factor == 4
    assert report.refreshed["mask_processor.vae_scale_factor"] == (8, 4)


# --- pipelines that are not in the table -----------------------------------------------------------------------------


class OwnPipeline(DiffusionPipeline):
    def __init__(self, vae: Any, unet: Any) -> None:
        super().__init__()
        self.register_modules(vae=vae, unet=unet)


def test_an_unknown_class_gets_the_general_checks_and_is_told_so() -> None:
    pipe = OwnPipeline(small_vae(), small_unet(4))
    report = swap_vae(pipe, decoder_of(pipe.vae))
    assert not report.known
    assert any("OwnPipeline is a class that this library does not know" in note for note in report.notes)
    with pytest.raises(SwapError, match="8 latent channels, the present one of OwnPipeline has 4"):
        swap_vae(pipe, small_vae(latent_channels=8))
    with pytest.raises(SwapError, match="each side 4 times smaller, the present one of OwnPipeline 8 times"):
        swap_vae(pipe, small_vae(levels=3))
    other = decoder_of(pipe.vae, shift_factor=0.5)
    told = r"shift_factor is 0\.5, that of the present VAE None, and OwnPipeline may ignore"
    warned(pipe, other, told, "scaled otherwise")
    with pytest.raises(SwapError, match=r"shift_factor is None, that of the present VAE of OwnPipeline is 0\.5"):
        swap_vae(pipe, small_vae())
    with pytest.raises(SwapError, match="its present VAE is a AutoencoderTiny, no AutoencoderKL"):
        swap_vae(OwnPipeline(AutoencoderTiny(), small_unet(4)), small_vae())


def test_a_class_derived_from_a_known_one_is_known() -> None:
    class Derived(diffusers.FluxPipeline):
        pass

    pipe = Derived(**SMALL_FAMILIES["flux"].build().components)
    with pytest.raises(SwapError, match="shift_factor is None, and Derived adds it"):
        swap_vae(pipe, new_vae("flux", shift_factor=None))
