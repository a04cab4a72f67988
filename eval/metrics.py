"""Full-reference metrics of one image against another, on uint8 RGB pixels, each by its reference implementation.

Every metric is a callable (reference, distorted) -> float on `uint8 HWC` arrays of equal shape. Scores are per image;
`mean_metric` then takes the plain mean of the scores, so pixels and errors of different images are never pooled.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytorch_msssim
import torch
from jaxtyping import UInt8
from skimage.metrics import structural_similarity

from eval.dists import load_dists
from eval.perceptual import LpipsNet, load_lpips
from eval.remembered import Remembered
from latentcodec.images.pixels import to_tensor

Image = UInt8[np.ndarray, "height width 3"]
ImageOfAnySize = UInt8[np.ndarray, "_ _ 3"]
"""For collections, whose images need not have one size."""
Metric = Callable[[Image, Image], float]


class ImageTooSmallError(ValueError):
    """An image has sides below what a metric can take."""


def psnr(reference: Image, distorted: Image) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(255^2 / MSE), MSE in float64 over all rows, columns and channels.

    Higher is better; `inf` for identical images.
    """
    _check_pair(reference, distorted)
    error = np.mean(np.square(reference.astype(np.float64) - distorted.astype(np.float64)))
    return math.inf if error == 0 else 10 * math.log10(255**2 / float(error))


def ssim(reference: Image, distorted: Image) -> float:
    """Structural similarity with the Gaussian window and the constants of Wang et al. 2004, mean over RGB channels.

    At most 1, for identical images. scikit-image's implementation. Sides of at least 11 pixels.
    """
    _check_pair(reference, distorted, least_side=11)
    value = structural_similarity(
        reference,
        distorted,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2,
    )
    return float(value)


def ms_ssim(reference: Image, distorted: Image) -> float:
    """Multi-scale SSIM over five scales (Wang, Simoncelli, Bovik 2003), mean over RGB channels; at most 1.

    pytorch_msssim's implementation, in float32. Its coarsest window wants sides above 160 pixels.
    """
    _check_pair(reference, distorted, least_side=161)
    pair = [torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None] for image in (reference, distorted)]
    return float(pytorch_msssim.ms_ssim(*pair, data_range=255, size_average=False))


class LpipsMetric:
    """LPIPS v0.1 (Zhang et al. 2018): distance of deep features, 0 for identical images; lower is better.

    Args:
        net: `alex`, the usual metric, or `vgg`.
        backbone: file of the backbone; None: the places of `eval.perceptual.find_backbone`, then the download.
        device: where the network runs.

    Raises:
        BackboneUnavailableError, BackboneFormatError: see `eval.perceptual.load_lpips`.
    """

    LEAST_SIDE: Mapping[LpipsNet, int] = {"alex": 31, "vgg": 16}
    """Smaller images leave nothing after the last pooling."""

    def __init__(
        self, net: LpipsNet, backbone: str | Path | None = None, *, device: str | torch.device = "cpu"
    ) -> None:
        self.net: LpipsNet = net
        self.device = torch.device(device)
        self.module = load_lpips(net, backbone).to(self.device)
        self.module.net.forward = Remembered(self.module.net.forward)

    def __call__(self, reference: Image, distorted: Image) -> float:
        """The distance; raises ValueError for images that are too small."""
        _check_pair(reference, distorted, least_side=self.LEAST_SIDE[self.net])
        pair = [to_tensor(image)[None].to(self.device) for image in (reference, distorted)]
        with torch.inference_mode():
            return float(self.module(*pair))


class DistsMetric:
    """DISTS (Ding et al. 2020): structure and texture similarity of VGG16 features, 0 for identical images, about 1 at
    most; lower is better.

    At the images' own size, as codecs are compared; the authors' script first scales images to a short side of 256.

    Args:
        backbone: file of the VGG16 backbone, as for `LpipsMetric("vgg")`.
        device: where the network runs.

    Raises:
        BackboneUnavailableError, BackboneFormatError: see `eval.dists.load_dists`.
    """

    LEAST_SIDE = 16
    """Smaller images leave less than one position after the poolings."""

    def __init__(self, backbone: str | Path | None = None, *, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.module = load_dists(backbone).to(self.device)
        self.module.forward_once = Remembered(self.module.forward_once)

    def __call__(self, reference: Image, distorted: Image) -> float:
        """The distance; raises ValueError for images that are too small."""
        _check_pair(reference, distorted, least_side=self.LEAST_SIDE)
        pair = [(to_tensor(image)[None].to(self.device) + 1) / 2 for image in (reference, distorted)]
        with torch.inference_mode():
            return float(self.module(*pair))


@dataclass(frozen=True)
class MetricOptions:
    """What a metric may need beside the images."""

    backbones: Mapping[LpipsNet, str | Path | None] = field(default_factory=dict)
    """Files of backbones, VGG16's for DISTS too; None or no entry: the places of `eval.perceptual.find_backbone`."""
    device: str | torch.device = "cpu"
    """Where networks run."""


METRICS: dict[str, Callable[[MetricOptions], Metric]] = {
    "psnr": lambda _: psnr,
    "ssim": lambda _: ssim,
    "ms_ssim": lambda _: ms_ssim,
    "lpips_alex": lambda options: LpipsMetric("alex", options.backbones.get("alex"), device=options.device),
    "lpips_vgg": lambda options: LpipsMetric("vgg", options.backbones.get("vgg"), device=options.device),
    "dists": lambda options: DistsMetric(options.backbones.get("vgg"), device=options.device),
}
"""Makers of metrics by name; a network is loaded when its maker is called."""

LOWER_IS_BETTER = frozenset({"lpips_alex", "lpips_vgg", "dists", "rfid", "kid"})
"""Of all other metrics more is better. `rfid` and `kid` are of sets of images, see `eval.sets`."""


def make_metrics(
    names: Iterable[str],
    *,
    backbones: Mapping[LpipsNet, str | Path | None] | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Metric]:
    """The metrics of `names`, in that order, ready for `evaluate_pairs`.

    Raises:
        ValueError: a name that is not in `METRICS`.
        BackboneUnavailableError, BackboneFormatError: see `eval.perceptual.load_lpips`.
    """
    names = list(names)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"unknown metrics {unknown}: choose from {', '.join(METRICS)}")
    options = MetricOptions(backbones or {}, device)
    return {name: METRICS[name](options) for name in names}


def evaluate_pairs(
    references: Iterable[ImageOfAnySize], reconstructions: Iterable[ImageOfAnySize], metrics: Mapping[str, Metric]
) -> list[dict[str, float]]:
    """{metric: score} of each pair, in the order given. Both sides are read once and one pair is held at a time.

    Raises:
        ValueError: one side is longer; or images that differ in shape or that a metric cannot take. Names the pair.
    """
    rows = []
    for index, (reference, reconstruction) in enumerate(zip_longest(references, reconstructions)):
        if reference is None or reconstruction is None:
            short = "references" if reference is None else "reconstructions"
            raise ValueError(f"references and reconstructions must pair up, but there are only {index} {short}")
        row = {}
        for name, metric in metrics.items():
            try:
                row[name] = metric(reference, reconstruction)
            except ValueError as error:
                raise ValueError(f"pair {index}, metric {name}: {error}") from error
        rows.append(row)
    return rows


def mean_metric(values: Sequence[float]) -> float:
    """Arithmetic mean of per-image scores, summed without rounding, hence the same in any order.

    `inf` as soon as one image is identical under PSNR: such an image is neither left out nor capped.

    Raises:
        ValueError: no values, or a NaN among them.
    """
    if not values:
        raise ValueError("the mean of no scores is undefined: give at least one image")
    for index, value in enumerate(values):
        if math.isnan(value):
            raise ValueError(f"score {index} is NaN; a mean would spread it or hide it. Look at that image first")
    return math.fsum(values) / len(values)


def mean_scores(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """`mean_metric` of each metric over the rows of `evaluate_pairs`."""
    if not rows:
        raise ValueError("the mean of no scores is undefined: give at least one image")
    return {name: mean_metric([row[name] for row in rows]) for name in rows[0]}


def _check_pair(reference: np.ndarray, distorted: np.ndarray, *, least_side: int = 1) -> None:
    for name, image in (("reference", reference), ("distorted", distorted)):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"{name}: expected uint8 (height, width, 3), found {image.dtype} {image.shape}")
    if reference.shape != distorted.shape:
        raise ValueError(f"expected images of equal shape, found {reference.shape} and {distorted.shape}")
    for name, side in zip(("height", "width"), reference.shape[:2], strict=True):
        if side < least_side:
            raise ImageTooSmallError(f"{name}: expected at least {least_side} pixels, found {side}. Use larger images")
