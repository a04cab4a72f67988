"""eval/remembered.py: what a metric computed of the original a moment ago is not computed again, and nothing else changes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from eval.dists import untrained_dists
from eval.metrics import DistsMetric, LpipsMetric, Metric
from eval.perceptual import untrained_lpips
from eval.remembered import Remembered


def test_one_original_is_computed_once_for_many_pictures() -> None:
    calls: list[float] = []

    def features(values: Tensor) -> list[Tensor]:
        calls.append(float(values.sum()))
        return [2 * values]

    remembered = Remembered(features)
    for picture in (1.0, 2.0, 3.0, 2.0, 3.0):
        for value in (0.0, picture):
            assert remembered(torch.tensor(value))[0] == 2 * value
    assert calls == [0.0, 1.0, 2.0, 3.0, 2.0, 3.0]
    assert remembered(torch.zeros(2))[0].shape == (2,)  # of the same values, but another shape


def lpips_of_random_features() -> Metric:
    return LpipsMetric("alex")


def dists_of_random_features() -> Metric:
    metric, generator = DistsMetric(), torch.Generator().manual_seed(0)
    for name, values in metric.module.named_parameters():
        if name.startswith("stage"):
            values.normal_(0, 0.1, generator=generator)
    return metric


@pytest.mark.parametrize("make", [lpips_of_random_features, dists_of_random_features])
def test_scores_do_not_depend_on_what_came_before(make: Callable[[], Metric], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.metrics.load_lpips", lambda net, file: untrained_lpips(net))
    monkeypatch.setattr("eval.metrics.load_dists", lambda file: untrained_dists())
    images = np.random.default_rng(0).integers(0, 256, (4, 40, 48, 3), dtype=np.uint8)
    pairs = [(0, 1), (0, 2), (1, 0), (0, 0), (3, 2), (0, 1), (2, 3)]
    torch.manual_seed(0)
    metric, scores = make(), []
    for one, other in pairs:
        torch.manual_seed(0)
        scores.append(metric(images[one], images[other]))
        assert scores[-1] == make()(images[one], images[other])
    assert len(set(scores)) == 4
