"""From rows of images to figures of VAEs: means with intervals, paired differences, ranking."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eval.bootstrap import Bootstrap, Interval, mean_interval, paired_difference
from eval.metrics import LOWER_IS_BETTER
from eval.reconstruct.evaluate import Evaluation
from eval.rows import ImageRow
from eval.sets import KernelDistance, frechet_distance, kernel_distance


@dataclass(frozen=True)
class Summary:
    """What one VAE reached in one mode."""

    codec: str
    setting: str
    images: int
    metrics: dict[str, Interval]
    """Metrics of images."""
    rfid: float | None
    """None where it was not asked for."""
    kid: KernelDistance | None

    def value(self, metric: str) -> float:
        """The figure that VAEs are ranked by.

        Raises:
            KeyError: it was not measured.
        """
        if metric == "rfid" and self.rfid is not None:
            return self.rfid
        if metric == "kid" and self.kid is not None:
            return self.kid.mean
        return self.metrics[metric].mean

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        sets: dict[str, Any] = {}
        if self.rfid is not None:
            sets["rfid"] = {"value": self.rfid, "images": self.images}
        if self.kid is not None:
            sets["kid"] = {**asdict(self.kid), "images": self.images}
        metrics = {name: interval.as_dict() for name, interval in self.metrics.items()}
        return {"codec": self.codec, "setting": self.setting, "images": self.images, "metrics": metrics, "sets": sets}


@dataclass(frozen=True)
class Difference:
    """One VAE's metric minus another's on the same images."""

    codec: str
    baseline: str
    setting: str
    metric: str
    interval: Interval

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**asdict(self), "interval": self.interval.as_dict()}


Scores = dict[tuple[str, str], dict[str, dict[str, float]]]
"""(codec, setting) -> metric -> image -> score."""


def scores_of(rows: Sequence[ImageRow]) -> Scores:
    """The scores of rows, in the order in which codecs, settings and metrics first appear."""
    scores: Scores = {}
    for row in rows:
        of_codec = scores.setdefault((row.codec, row.setting), {})
        for metric, score in row.metrics.items():
            of_codec.setdefault(metric, {})[row.image] = score
    return scores


def summarise(found: Evaluation, bootstrap: Bootstrap, *, rfid: bool = False, kid: bool = False) -> list[Summary]:
    """The figures of each VAE and mode, in the order of the run.

    Args:
        rfid, kid: compare the sets of images too; the evaluation must have had a network, for KID with its features kept.
    """
    summaries = []
    for (codec, setting), of_metric in scores_of(found.rows).items():
        images = sum(row.codec == codec and row.setting == setting for row in found.rows)
        metrics = {metric: mean_interval(scores, bootstrap) for metric, scores in of_metric.items()}
        frechet, kernel = None, None
        if found.originals is not None:
            features = next(set for key, set in found.features.items() if key == (codec, setting))
            frechet = frechet_distance(found.originals.statistics, features.statistics) if rfid else None
            kernel = kernel_distance(found.originals.vectors, features.vectors) if kid else None
        summaries.append(Summary(codec, setting, images, metrics, frechet, kernel))
    return summaries


def differences(rows: Sequence[ImageRow], bootstrap: Bootstrap) -> list[Difference]:
    """Of each pair of VAEs, the later minus the earlier, in each mode and metric; on the images that both have."""
    scores = scores_of(rows)
    found = []
    for (baseline, setting), (codec, other_setting) in itertools.combinations(scores, 2):
        if setting != other_setting:
            continue
        for metric, of_codec in scores[codec, setting].items():
            of_baseline = scores[baseline, setting][metric]
            found.append(
                Difference(codec, baseline, setting, metric, paired_difference(of_codec, of_baseline, bootstrap))
            )
    return found


def ranking(summaries: Sequence[Summary], metric: str, setting: str) -> list[str]:
    """The VAEs by one metric, best first; equals stay in the order of the run."""
    measured = [summary for summary in summaries if summary.setting == setting]
    best_first = sorted(measured, key=lambda summary: summary.value(metric), reverse=metric not in LOWER_IS_BETTER)
    return [summary.codec for summary in best_first]


def worst_first(rows: Sequence[ImageRow], metric: str) -> list[ImageRow]:
    """The rows of each VAE and mode, by one metric; those without a score last."""
    groups: dict[tuple[str, str], list[ImageRow]] = {}
    for row in rows:
        groups.setdefault((row.codec, row.setting), []).append(row)
    sign = -1 if metric in LOWER_IS_BETTER else 1

    def key(row: ImageRow) -> tuple[bool, float, str]:
        return metric not in row.metrics, sign * row.metrics.get(metric, 0.0), row.image

    return [row for group in groups.values() for row in sorted(group, key=key)]
