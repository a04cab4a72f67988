"""Every image through every VAE, measured."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from eval.features import FeatureNetwork
from eval.images import NamedImage
from eval.metrics import ImageTooSmallError, Metric
from eval.pictures import PictureFolder
from eval.reconstruct.modes import MODES, Mode, Reconstruction, image_seed, reconstruct_modes
from eval.rows import ImageRow
from eval.sets import FeatureSet
from latentcodec.codec import LatentCodec
from latentcodec.memory import freed_memory_kept


class EvaluationError(ValueError):
    """A VAE gave no image back; the message names both."""


@dataclass(frozen=True)
class Plan:
    """What is done to every image, the same for all VAEs of a run."""

    metrics: Mapping[str, Metric]
    """Of one image against another."""
    modes: tuple[Mode, ...] = MODES
    seed: int = 0
    """Of posterior samples."""
    network: FeatureNetwork | None = None
    """Whose features compare the sets of images; None: they are not compared."""
    keep_features: bool = False
    """Hold on to every vector, which KID needs."""
    pictures: PictureFolder | None = None
    """Where originals and reconstructions are saved; None: nowhere."""


@dataclass
class Evaluation:
    """What a run found."""

    rows: list[ImageRow] = field(default_factory=list)
    originals: FeatureSet | None = None
    """Features of the originals; None without a network."""
    features: dict[tuple[str, Mode], FeatureSet] = field(default_factory=dict)
    """Of the reconstructions, by VAE and mode."""
    too_small: dict[str, dict[str, str]] = field(default_factory=dict)
    """Metric -> image -> why it has no score."""
    tiled: dict[str, dict[str, str]] = field(default_factory=dict)
    """VAE -> image -> how it was computed, where that was not in one piece."""


def evaluate(images: Iterable[NamedImage], codecs: Mapping[str, LatentCodec], plan: Plan) -> Evaluation:
    """Reconstruct and measure each image with each VAE, one image at a time, so that no figure depends on the others.

    Raises:
        EvaluationError: reconstructed values are not finite.
    """
    found = Evaluation()
    if plan.network is not None:
        found.originals = FeatureSet(keep=plan.keep_features)
        found.features = {(name, mode): FeatureSet(keep=plan.keep_features) for name in codecs for mode in plan.modes}
    with freed_memory_kept():
        for image in images:
            if plan.pictures is not None:
                plan.pictures.save_original(image.id, image.pixels)
            if plan.network is not None and found.originals is not None:
                found.originals.add(image.id, plan.network(image.pixels))
            for name, codec in codecs.items():
                _one(found, image, name, codec, plan)
    return found


def _one(found: Evaluation, image: NamedImage, name: str, codec: LatentCodec, plan: Plan) -> None:
    """One image through one VAE, in every mode; adds what was found."""
    try:
        results = reconstruct_modes(codec, image.pixels, plan.modes, seed=image_seed(plan.seed, image.id))
    except ValueError as error:
        raise EvaluationError(f"{name}, image {image.id}: {error}") from error
    for mode, result in results.items():
        picture = None if plan.pictures is None else plan.pictures.save(name, mode, image.id, result.pixels)
        scores, too_small = score(image.pixels, result.pixels, plan.metrics)
        for metric, reason in too_small.items():
            found.too_small.setdefault(metric, {})[image.id] = reason
        if result.method != "whole":
            found.tiled.setdefault(name, {})[image.id] = result.method
        if plan.network is not None:
            found.features[name, mode].add(image.id, plan.network(result.pixels))
        found.rows.append(_row(image, name, mode, result, scores, picture))


def score(
    reference: UInt8[np.ndarray, "height width 3"],
    reconstruction: UInt8[np.ndarray, "height width 3"],
    metrics: Mapping[str, Metric],
) -> tuple[dict[str, float], dict[str, str]]:
    """{metric: score}, and {metric: reason} of those that cannot take an image so small."""
    scores, too_small = {}, {}
    for name, metric in metrics.items():
        try:
            scores[name] = metric(reference, reconstruction)
        except ImageTooSmallError as error:
            too_small[name] = str(error)
    return scores, too_small


def _row(
    image: NamedImage, name: str, mode: Mode, result: Reconstruction, scores: dict[str, float], picture: str | None
) -> ImageRow:
    height, width = image.pixels.shape[:2]
    return ImageRow(
        image=image.id, codec=name, setting=mode, width=width, height=height, bytes=None,
        encode_seconds=result.encode_seconds, decode_seconds=result.decode_seconds, metrics=scores, picture=picture,
    )  # fmt: skip
