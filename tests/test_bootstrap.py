"""eval/bootstrap.py: against the definition, theory, and itself in another order."""

import math

import numpy as np
import pytest

from eval.bootstrap import Bootstrap, mean_interval, paired_difference, resampled_means


def scores(count: int, seed: int = 0, mean: float = 30.0, spread: float = 2.0) -> dict[str, float]:
    values = np.random.default_rng(seed).normal(mean, spread, count)
    return {f"image-{index:03d}": float(value) for index, value in enumerate(values)}


def test_interval_is_the_definition() -> None:
    """Draw, average, sort, cut off: written out."""
    values = scores(24)
    found = mean_interval(values, Bootstrap(resamples=1000, confidence=0.9, seed=5))
    random = np.random.default_rng(5)
    drawn = random.integers(24, size=(1000, 24))
    means = sorted(np.array(list(values.values()))[row].mean() for row in drawn)
    assert (found.mean, found.images) == (pytest.approx(np.mean(list(values.values()))), 24)
    assert found.low == pytest.approx(means[49])
    assert found.high == pytest.approx(means[949])


def test_width_is_that_of_the_normal_approximation() -> None:
    values = scores(400)
    found = mean_interval(values, Bootstrap())
    error = np.std(list(values.values()), ddof=1) / 20
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.2 * error)


def test_coverage() -> None:
    """Of 200 samples of 40 images, about 95 % of the intervals hold the true mean."""
    inside = 0
    for seed in range(200):
        found = mean_interval(scores(40, seed), Bootstrap(resamples=400))
        inside += found.low <= 30 <= found.high
    assert 180 <= inside <= 199


def test_order_changes_nothing_and_the_seed_does() -> None:
    values = scores(30)
    turned = dict(reversed(values.items()))
    assert mean_interval(turned, Bootstrap()) == mean_interval(values, Bootstrap())
    assert mean_interval(values, Bootstrap(seed=1)) != mean_interval(values, Bootstrap())


def test_many_draws_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=50)
    whole = resampled_means(values, Bootstrap(resamples=333))
    monkeypatch.setattr("eval.bootstrap._DRAWS_AT_ONCE", 500)
    np.testing.assert_array_equal(resampled_means(values, Bootstrap(resamples=333)), whole)


def test_paired_differences_are_narrow() -> None:
    baseline = scores(24, spread=4)
    better = {image: value + 0.5 + 0.1 * (index % 3) for index, (image, value) in enumerate(baseline.items())}
    found = paired_difference(better, baseline, Bootstrap())
    assert found.mean == pytest.approx(0.6)
    assert 0.5 < found.low < found.mean < found.high < 0.7
    alone = mean_interval(better, Bootstrap())
    assert alone.high - alone.low > 10 * (found.high - found.low)
    back = paired_difference(baseline, better, Bootstrap())
    assert back.mean == pytest.approx(-0.6)


def test_infinite_scores() -> None:
    """The PSNR of identical images, warnings being errors."""
    values = scores(10) | {"image-003": math.inf}
    found = mean_interval(values, Bootstrap())
    assert found.mean == found.high == math.inf
    assert math.isfinite(found.low)
    assert found.as_dict()["mean"] == "inf"
    same = paired_difference(values, values, Bootstrap())
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    assert paired_difference(values, scores(10), Bootstrap()).mean == math.inf


def test_what_has_no_mean_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        mean_interval({}, Bootstrap())
    with pytest.raises(ValueError, match="NaN"):
        mean_interval({"a": math.nan}, Bootstrap())
    with pytest.raises(ValueError, match="found one for image-009"):
        paired_difference(scores(10), scores(9), Bootstrap())
    with pytest.raises(ValueError, match="resamples: expected at least 1, found 0"):
        Bootstrap(resamples=0)
    with pytest.raises(ValueError, match=r"confidence: expected a share between 0 and 1, found 95.0"):
        Bootstrap(confidence=95.0)
