"""The detector: what its parts compute, that its threshold keeps its promise, that it finds what was planted; the commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from store_helpers import small_codec, small_vae
from torch.nn import functional as F

from eval.anomaly import DEFECTS, auroc, auroc_interval
from eval.anomaly import main as measure
from latentcodec.anomaly.detector import TERMS, AnomalyError, Detector, fit, worst
from latentcodec.anomaly.files import read_detector, write_detector
from latentcodec.anomaly.gaussian import GaussianFit
from latentcodec.anomaly.heat import heat_over, hottest_box
from latentcodec.anomaly.terms import EncoderFeatures, look
from latentcodec.cli import main
from latentcodec.codec import LatentCodec
from latentcodec.images.geometry import resize
from latentcodec.images.pixels import to_tensor
from latentcodec.vae.loading import save_vae


def normal_image(seed: int, size: int = 64) -> np.ndarray:
    """Soft colours."""
    return resize(np.random.default_rng(seed).integers(90, 160, (4, 4, 3), np.uint8), size, size)


def strange_image(seed: int) -> np.ndarray:
    """The same with a black and white chequer somewhere."""
    image = normal_image(seed).copy()
    top, left = np.random.default_rng(seed).integers(0, 40, 2)
    image[top : top + 24, left : left + 24] = 255 * (np.indices((24, 24)).sum(0) // 2 % 2)[:, :, None]
    return image


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    return small_codec()


@pytest.fixture(scope="module")
def detector(codec: LatentCodec) -> Detector:
    return fit(codec, [normal_image(seed) for seed in range(90)], size=64, rate=0.1)


# ---- parts


def test_gaussian_is_numpys_and_its_distances_are_one_on_average() -> None:
    mixing = np.random.default_rng(0).normal(size=(5, 5))
    vectors = torch.from_numpy(np.random.default_rng(1).normal(size=(4000, 5)) @ mixing + 3).float()
    sums = GaussianFit()
    for part in vectors.split(700):
        sums.add(part)
    fitted = sums.fitted()
    torch.testing.assert_close(fitted.mean, vectors.mean(0), rtol=1e-4, atol=1e-4)
    covariance = torch.linalg.inv(fitted.whitening.T @ fitted.whitening).numpy()
    expected = np.cov(vectors.numpy().T)
    expected = 0.99 * expected + 0.01 * np.trace(expected) / 5 * np.eye(5)  # shrunk
    np.testing.assert_allclose(covariance, expected, rtol=2e-3, atol=2e-3)
    assert float(fitted.distances(vectors).square().mean()) == pytest.approx(1, rel=0.1)  # less by the shrinkage
    far = fitted.mean + 10 * torch.from_numpy(mixing[0]).float()
    assert float(fitted.distances(far[None])) > 3


def test_too_few_vectors_are_refused() -> None:
    sums = GaussianFit()
    sums.add(torch.randn(3, 5))
    with pytest.raises(ValueError, match="a Gaussian of 5 features needs more vectors than features, found 3"):
        sums.fitted()


def test_features_are_those_on_the_encoders_way(codec: LatentCodec) -> None:
    image = to_tensor(normal_image(1))[None]
    levels = EncoderFeatures(codec.vae)(image)
    assert [tuple(level.shape[1:]) for level in levels] == [(8, 32, 32), (8, 16, 16), (16, 8, 8), (16, 8, 8)]
    encoder = codec.vae.encoder
    with torch.inference_mode():
        rest = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(levels[-1]))))
        torch.testing.assert_close(rest, encoder(image))


def test_maps_cover_the_image_and_an_image_equal_to_its_reconstruction_has_no_error(codec: LatentCodec) -> None:
    seen = look(codec, normal_image(3)[:50, :39])
    assert seen.error.shape == seen.features.shape == seen.vectors.shape[:2] == (7, 5)
    assert seen.vectors.shape[2] == 3 * 4
    again = codec.reconstruct(normal_image(3)).tensors[0]
    expected = F.avg_pool2d((to_tensor(normal_image(3)) - again.clamp(-1, 1)).abs().mean(0)[None], 8)[0]
    torch.testing.assert_close(look(codec, normal_image(3)).error, expected)


def test_worst_is_the_mean_of_the_strangest_hundredth() -> None:
    assert worst(torch.arange(1000.0).reshape(20, 50)) == pytest.approx(np.mean(range(990, 1000)))
    assert worst(torch.tensor([[1.0, 5.0]])) == 5


# ---- the detector


def test_normal_images_are_called_anomalous_at_most_at_the_rate(codec: LatentCodec, detector: Detector) -> None:
    verdicts = [detector.score(codec, normal_image(1000 + seed)) for seed in range(60)]
    assert np.mean([verdict.anomalous for verdict in verdicts]) < 0.1 + 0.1  # three deviations of 60 draws
    p_values = np.array([verdict.p_value for verdict in verdicts])
    assert 0.35 < p_values.mean() < 0.65  # evenly spread from 0 to 1
    assert all((verdict.score > detector.threshold) == verdict.anomalous for verdict in verdicts)
    assert min(p_values) >= 1 / 31


def test_planted_squares_are_found_and_where(codec: LatentCodec, detector: Detector) -> None:
    clean = np.array([detector.score(codec, normal_image(2000 + seed)).score for seed in range(20)])
    verdicts = [detector.score(codec, strange_image(2000 + seed)) for seed in range(20)]
    assert auroc(clean, np.array([verdict.score for verdict in verdicts])) > 0.95
    hits = 0
    for seed, verdict in enumerate(verdicts):
        top, left = np.random.default_rng(2000 + seed).integers(0, 40, 2)
        row, column = divmod(int(verdict.heat.argmax()), 8)
        hits += top - 8 <= 8 * row <= top + 24 and left - 8 <= 8 * column <= left + 24
    assert hits >= 18


def test_what_is_too_smooth_is_as_strange_as_what_is_too_rough() -> None:
    """With the shipped VAE: what random weights make of a patch has little to do with the patch."""
    codec = LatentCodec.from_pretrained()

    def grain(seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(60, 200, (64, 64, 3), np.uint8)

    detector = fit(codec, [grain(seed) for seed in range(15)], size=64)
    clean = [detector.score(codec, grain(100 + seed)).terms for seed in range(6)]
    smooth = [
        detector.score(codec, DEFECTS["blur"](grain(200 + seed), 32, grain(0), np.random.default_rng(seed))).terms
        for seed in range(6)
    ]
    found = {name: auroc(*(np.array([terms[name] for terms in some]) for some in (clean, smooth))) for name in TERMS}
    assert found["detail"] > 0.95
    assert found["pixel"] < 0.6


def test_too_few_images_for_the_rate_give_no_threshold(codec: LatentCodec) -> None:
    few = fit(codec, [normal_image(seed) for seed in range(12)], size=64, rate=0.05)
    assert few.threshold == float("inf")
    assert not few.score(codec, strange_image(5)).anomalous
    assert few.score(codec, strange_image(5)).p_value == pytest.approx(1 / 5)


def test_what_cannot_be_fitted_is_refused(codec: LatentCodec) -> None:
    images = [normal_image(seed) for seed in range(9)]
    with pytest.raises(AnomalyError, match="at least 9 normal images, found 4"):
        fit(codec, images[:4], size=64)
    with pytest.raises(AnomalyError, match="terms: expected some of pixel, detail, perceptual, latent; found smell"):
        fit(codec, images, terms=["smell"])
    with pytest.raises(AnomalyError, match="rate: expected a share between 0 and 1, found 0"):
        fit(codec, images, rate=0.0)


def test_another_vae_is_refused(detector: Detector) -> None:
    with pytest.raises(AnomalyError, match=r"fitted with the VAE sha256:.*, found sha256:"):
        detector.score(small_codec(seed=2), normal_image(0))


def test_a_file_keeps_every_bit_and_others_are_refused(codec: LatentCodec, detector: Detector, tmp_path: Path) -> None:
    write_detector(detector, tmp_path / "d.safetensors")
    again = read_detector(tmp_path / "d.safetensors")
    one, other = detector.score(codec, strange_image(1)), again.score(codec, strange_image(1))
    assert (one.score, one.p_value, one.terms) == (other.score, other.p_value, other.terms)
    assert again.threshold == detector.threshold
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "d.safetensors").read_bytes()[:100])
    with pytest.raises(AnomalyError, match=r"torn\.safetensors: cannot be read as a detector"):
        read_detector(tmp_path / "torn.safetensors")
    save_vae(small_vae(), tmp_path / "vae")
    with pytest.raises(AnomalyError, match="expected a detector, found a file of another kind"):
        read_detector(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")


def test_heat_is_red_where_it_is_strange() -> None:
    heat = torch.zeros(4, 6)
    heat[1:3, 2] = 9.0
    heat[3, 5] = 5.0  # another, cooler one
    image = np.full((32, 48, 3), 100, np.uint8)
    shown = heat_over(image, heat)
    assert tuple(shown[0, 0]) == (100, 100, 100)
    assert shown[15, 20, 0] > 200 > 100 > shown[15, 20, 2]
    assert hottest_box(heat, 32, 48) == (8, 16, 16, 8)
    assert hottest_box(torch.zeros(4, 6), 32, 48) is None


# ---- the commands


def test_commands_fit_score_and_tell_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_vae(small_vae(), tmp_path / "vae")
    for name, images in (("good", [normal_image(s) for s in range(36)]), ("fine", [normal_image(98)]),
                         ("new", [normal_image(98), strange_image(99)])):  # fmt: skip
        (tmp_path / name).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{number}.png")
    common = ["--vae", str(tmp_path / "vae"), "--dtype", "float32", "--json"]
    model = str(tmp_path / "d.safetensors")
    assert main(["anomaly", "fit", str(tmp_path / "good"), "-o", model, "--size", "64", "--rate", "0.1", *common]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["fitted"], told["calibrated"]) == (24, 12)
    assert main(["anomaly", "score", str(tmp_path / "fine"), "--detector", model, *common]) == 0
    assert json.loads(capsys.readouterr().out)["anomalous"] == 0
    out = tmp_path / "seen"
    assert main(["anomaly", "score", str(tmp_path / "new"), "--detector", model, "--output", str(out), *common]) == 3
    captured = capsys.readouterr()
    assert "1 of 2 images are anomalous" in captured.err
    rows = json.loads(captured.out)["images"]
    assert [row["anomalous"] for row in rows] == [False, True]
    assert json.loads((out / "1.png.json").read_text()) == rows[1]
    assert np.asarray(Image.open(out / "1.png.heat.png")).shape == (64, 64, 3)
    (tmp_path / "new" / "2.png").write_bytes(b"no image")
    assert main(["anomaly", "score", str(tmp_path / "new"), "--detector", model, *common]) == 1
    assert main(["anomaly", "score", str(tmp_path / "new"), "--detector", str(tmp_path / "vae"), *common]) == 1


# ---- the measurement


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    normal, other = np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0])
    assert auroc(normal, other) == pytest.approx((1.5 + 3) / 6)
    assert auroc(normal, normal) == 0.5
    assert auroc(normal, normal + 0.5, paired=True) == 0.5  # three above, three below; none with itself
    assert auroc(normal, normal + 0.5) == pytest.approx(6 / 9)
    assert auroc(-normal, -other) == pytest.approx(1 - auroc(normal, other))
    low, high = auroc_interval(
        np.random.default_rng(0).normal(size=80), np.random.default_rng(1).normal(1, 1, 80), paired=False
    )
    assert low < 0.76 < high  # Phi(1 / sqrt 2)
    assert high - low < 0.2


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_change_their_place_alone_and_repeat_themselves(name: str) -> None:
    image, other = np.random.default_rng(0).integers(0, 100, (2, 64, 64, 3), np.uint8)
    once, again = (DEFECTS[name](image, 16, other, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(once, again)
    changed = np.argwhere((once != image).any(axis=2))
    assert len(changed) > 8
    assert (np.ptp(changed, axis=0) < 24).all()


def test_the_measurement_writes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_vae(small_vae(), tmp_path / "vae")
    for name, make in (("kind", normal_image), ("other", strange_image)):
        (tmp_path / name).mkdir()
        for number in range(16):
            Image.fromarray(make(number)).save(tmp_path / name / f"{number:02d}.png")
    arguments = [
        str(tmp_path / "vae"),
        "--data",
        str(tmp_path / "kind"),
        "--others",
        str(tmp_path / "other"),
        "--size",
        "64",
    ]
    measure(
        [*arguments, "--sizes", "[16]", "--held_out", "6", "--other_images", "4", "--json", str(tmp_path / "a.json")]
    )
    printed = capsys.readouterr().out
    assert "another kind" in printed
    assert "false alarms" in printed
    record = json.loads((tmp_path / "a.json").read_text())
    assert [row["defect"] for row in record["rows"]] == [*DEFECTS, "another kind", "none"]
    assert set(TERMS) < set(record["rows"][0])
    assert str(tmp_path) not in json.dumps(record)
