"""eval/metrics.py against formulas written out in NumPy and against other packages."""

import math

import numpy as np
import pytest
import pytorch_msssim
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jaxtyping import TypeCheckError
from scipy.ndimage import correlate1d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from eval import metrics as module
from eval.metrics import (
    LOWER_IS_BETTER,
    METRICS,
    ImageTooSmallError,
    LpipsMetric,
    evaluate_pairs,
    make_metrics,
    mean_metric,
    mean_scores,
    ms_ssim,
    psnr,
    ssim,
)

WITHOUT_WEIGHTS = ("psnr", "ssim", "ms_ssim")


def picture(seed: int, height: int = 176, width: int = 192) -> np.ndarray:
    """A smooth random image with structure at several scales."""
    generator = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for scale in (1, 8, 32):
        coarse = generator.normal(size=(height // scale + 1, width // scale + 1, 3))
        image += coarse.repeat(scale, 0).repeat(scale, 1)[:height, :width] * scale**0.5
    return np.clip(128 + 12 * image, 0, 255).astype(np.uint8)


def noisy(image: np.ndarray, spread: float, seed: int = 7) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(scale=spread, size=image.shape)
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)


def ssim_maps(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(SSIM, contrast-structure) of float64 HWC, Wang et al. 2004, window inside the image."""
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def smooth(image: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(image, window, axis=0), window, axis=1)[5:-5, 5:-5]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = smooth(x), smooth(y)
    structure = (2 * (smooth(x * y) - mx * my) + c2) / (smooth(x * x) - mx**2 + smooth(y * y) - my**2 + c2)
    return (2 * mx * my + c1) / (mx**2 + my**2 + c1) * structure, structure


def test_psnr_is_the_formula() -> None:
    x, y = picture(0), noisy(picture(0), 9)
    total = sum((int(a) - int(b)) ** 2 for a, b in zip(x.ravel().tolist(), y.ravel().tolist(), strict=True))
    assert psnr(x, y) == pytest.approx(10 * math.log10(255**2 * x.size / total), rel=1e-12)


def test_psnr_of_known_pairs() -> None:
    black, white = np.zeros((4, 5, 3), np.uint8), np.full((4, 5, 3), 255, np.uint8)
    assert psnr(black, white) == 0
    assert psnr(black, black + np.uint8(1)) == pytest.approx(48.1308036086791)
    assert psnr(white, white) == math.inf


def test_psnr_does_not_wrap_around() -> None:
    """uint8 subtraction would make 255 - 0 and 0 - 255 differ."""
    low, high = np.full((2, 2, 3), 10, np.uint8), np.full((2, 2, 3), 250, np.uint8)
    assert psnr(low, high) == psnr(high, low) == pytest.approx(20 * math.log10(255 / 240))


def test_ssim_is_the_formula() -> None:
    x, y = picture(1, 61, 47), noisy(picture(1, 61, 47), 14)
    expected = ssim_maps(x.astype(np.float64), y.astype(np.float64))[0].mean()
    assert ssim(x, y) == pytest.approx(expected, abs=1e-12)


def test_ms_ssim_is_the_formula() -> None:
    x, y = picture(2), noisy(picture(2), 20)
    a, b = x.astype(np.float64), y.astype(np.float64)
    product = np.ones(3)
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    for level, weight in enumerate(weights):
        full, structure = ssim_maps(a, b)
        product *= (full if level == 4 else structure).mean(axis=(0, 1)) ** weight
        if level < 4:
            a, b = (i.reshape(i.shape[0] // 2, 2, i.shape[1] // 2, 2, 3).mean(axis=(1, 3)) for i in (a, b))
    assert a.shape == (11, 12, 3)
    assert ms_ssim(x, y) == pytest.approx(product.mean(), abs=2e-6)


def psnr_reference(x: np.ndarray, y: np.ndarray) -> float:
    return float(peak_signal_noise_ratio(x, y, data_range=255))


def ssim_reference(x: np.ndarray, y: np.ndarray) -> float:
    """The call for the figures of Wang et al., on floats of 0 ... 1."""
    return float(
        structural_similarity(
            x / 255,
            y / 255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=-1,
        )
    )


def ms_ssim_reference(x: np.ndarray, y: np.ndarray) -> float:
    pair = [torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255 for image in (x, y)]
    return float(pytorch_msssim.MS_SSIM(data_range=1, size_average=False)(*pair))


# LPIPS and DISTS: tests/test_perceptual.py and tests/test_dists.py. rFID and KID: tests/test_sets.py.
REFERENCES = {"psnr": (psnr_reference, 1e-9), "ssim": (ssim_reference, 1e-9), "ms_ssim": (ms_ssim_reference, 2e-6)}


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_its_reference_package(name: str) -> None:
    """On noise, on smooth random pictures and on photographs, up to the tolerance beside it."""
    reference, tolerance = REFERENCES[name]
    metric = make_metrics([name])[name]
    random = np.random.default_rng(0).integers(0, 256, (2, 161, 170, 3), dtype=np.uint8)
    photos = [np.ascontiguousarray(getattr(skimage.data, photo)()[:200, :190]) for photo in ("astronaut", "coffee")]
    pairs = [(random[0], random[1]), (picture(5), noisy(picture(5), 6))]
    pairs += [(photo, noisy(photo, spread)) for photo, spread in zip(photos, (3, 30), strict=True)]
    for x, y in pairs:
        assert metric(x, y) == pytest.approx(reference(x, y), abs=tolerance)


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_symmetric_and_monotone(name: str) -> None:
    metric = make_metrics([name])[name]
    x = picture(3)
    assert metric(x, noisy(x, 10)) == pytest.approx(metric(noisy(x, 10), x), abs=1e-6)
    scores = [metric(x, noisy(x, spread)) for spread in (2, 8, 25)]
    assert scores == sorted(scores, reverse=True)
    assert metric(x, x) >= scores[0]
    assert metric(x, x) == (math.inf if name == "psnr" else pytest.approx(1, abs=1e-7))


@settings(max_examples=25, deadline=None)
@given(pair=hnp.arrays(np.uint8, st.tuples(st.just(2), st.integers(11, 20), st.integers(11, 20), st.just(3))))
def test_bounds(pair: np.ndarray) -> None:
    x, y = pair
    assert psnr(x, y) >= 0
    assert -1 <= ssim(x, y) <= 1 + 1e-9
    assert (psnr(x, y) == math.inf) == bool((x == y).all())


def test_scores_of_a_pair_do_not_depend_on_the_others() -> None:
    references = [picture(seed, 176 + 8 * seed, 180) for seed in range(3)]
    outputs = [noisy(image, 4 + 3 * seed) for seed, image in enumerate(references)]
    metrics = make_metrics(WITHOUT_WEIGHTS)
    together = evaluate_pairs(references, iter(outputs), metrics)
    assert together == [evaluate_pairs([r], [o], metrics)[0] for r, o in zip(references, outputs, strict=True)]
    assert list(together[0]) == list(WITHOUT_WEIGHTS)
    means = mean_scores(together)
    assert means["psnr"] == pytest.approx(np.mean([psnr(r, o) for r, o in zip(references, outputs, strict=True)]))
    pooled = np.mean([np.mean((r.astype(float) - o) ** 2) for r, o in zip(references, outputs, strict=True)])
    assert means["psnr"] != pytest.approx(10 * math.log10(255**2 / pooled), abs=1e-3)


def test_evaluate_pairs_takes_none_and_refuses_a_lone_image() -> None:
    assert evaluate_pairs([], [], {"psnr": psnr}) == []
    image = picture(0, 20, 20)
    with pytest.raises(ValueError, match="only 1 reconstructions"):
        evaluate_pairs([image, image], [image], {"psnr": psnr})
    with pytest.raises(ValueError, match="only 0 references"):
        evaluate_pairs([], [image], {"psnr": psnr})


def test_errors_name_pair_metric_and_side() -> None:
    small = picture(0, 200, 160)
    fine = picture(0)
    metrics = make_metrics(["psnr", "ms_ssim"])
    with pytest.raises(ValueError, match=r"pair 1, metric ms_ssim: width: expected at least 161 pixels, found 160"):
        evaluate_pairs([fine, small], [fine, small], metrics)
    with pytest.raises(ValueError, match=r"height: expected at least 161 pixels, found 60"):
        ms_ssim(picture(0, 60, 300), picture(0, 60, 300))
    assert ms_ssim(small[:161, :160].repeat(2, 1), small[:161, :160].repeat(2, 1)) == 1
    with pytest.raises(ImageTooSmallError, match="height: expected at least 11 pixels, found 10"):
        ssim(picture(0, 10, 30), picture(0, 10, 30))
    with pytest.raises(ValueError, match=r"unknown metrics \['fid'\]: choose from psnr, ssim"):
        make_metrics(["psnr", "fid"])


@pytest.mark.parametrize(
    ("reference", "distorted", "message"),
    [
        (np.zeros((4, 4, 3)), np.zeros((4, 4, 3), np.uint8), r"reference: expected uint8 .* found float64 \(4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), r"distorted: .* found uint8 \(4, 4\)"),
        (
            np.zeros((4, 4, 3), np.uint8),
            np.zeros((4, 5, 3), np.uint8),
            r"equal shape, found \(4, 4, 3\) and \(4, 5, 3\)",
        ),
    ],
)
def test_wrong_arrays_are_refused(reference: np.ndarray, distorted: np.ndarray, message: str) -> None:
    # The checked annotations of the tests catch these first; without them it is `_check_pair` that speaks.
    with pytest.raises(TypeCheckError):
        psnr(reference, distorted)
    with pytest.raises(ValueError, match=message):
        module._check_pair(reference, distorted)


def test_mean_metric() -> None:
    assert mean_metric([1.0, 2.0, 4.5]) == 2.5
    assert mean_metric([30.0, math.inf]) == math.inf
    values = [1e16, 1.0, -1e16, 3.0]
    assert mean_metric(values) == mean_metric(values[::-1]) == 1.0
    with pytest.raises(ValueError, match="score 1 is NaN"):
        mean_metric([1.0, math.nan])
    with pytest.raises(ValueError, match="at least one image"):
        mean_metric([])
    with pytest.raises(ValueError, match="at least one image"):
        mean_scores([])


def test_registry_makes_every_metric_but_loads_no_network_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Recorder:
        def __init__(self, net: str, backbone: object, *, device: str) -> None:
            made.append((net, backbone, device))

        def __call__(self, reference: np.ndarray, distorted: np.ndarray) -> float:
            return 0.0

    monkeypatch.setattr(module, "LpipsMetric", Recorder)
    monkeypatch.setattr(module, "DistsMetric", lambda backbone, *, device: Recorder("dists", backbone, device=device))
    assert set(METRICS) == {"psnr", "ssim", "ms_ssim", "lpips_alex", "lpips_vgg", "dists"}
    assert LOWER_IS_BETTER - {"rfid", "kid"} == set(METRICS) - set(WITHOUT_WEIGHTS)
    make_metrics(WITHOUT_WEIGHTS)
    assert made == []
    metrics = make_metrics(METRICS, backbones={"vgg": "features.safetensors"}, device="meta")
    assert list(metrics) == list(METRICS)
    assert made == [
        ("alex", None, "meta"), ("vgg", "features.safetensors", "meta"), ("dists", "features.safetensors", "meta")
    ]  # fmt: skip


@pytest.mark.shared
def test_lpips_metric(shared) -> None:
    metric = LpipsMetric("alex", shared / "weights" / "alexnet_features.safetensors")
    x = picture(4, 64, 80)
    scores = [metric(x, noisy(x, spread)) for spread in (3, 10, 40)]
    assert metric(x, x) == 0 < scores[0] < scores[1] < scores[2]
    assert metric(noisy(x, 10), x) == pytest.approx(scores[1], rel=1e-5)
    assert metric(x, noisy(x, 10)) == scores[1]

    a, b = (torch.from_numpy(i).permute(2, 0, 1)[None] / 127.5 - 1 for i in (x, noisy(x, 10)))
    assert scores[1] == pytest.approx(metric.module(a, b).item(), abs=1e-6)
    with pytest.raises(ValueError, match="width: expected at least 31 pixels, found 30"):
        metric(x[:, :30], x[:, :30])
    assert metric(x[:31, :31], x[:31, :31]) == 0
