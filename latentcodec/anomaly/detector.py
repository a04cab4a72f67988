"""Fit on normal images, calibrate on other normal ones, score the rest: from maps to one number with a meaning.

Every term is put in units of normal images: its median over them is 0 and their spread 1. The score is the mean of the
terms. What it takes to be called anomalous follows from the calibration images alone: of n + 1 normal images, their
scores and one more, each place in the order is equally likely, so the share of normal ones that are called anomalous is at
most the rate asked for (conformal p-value; Vovk et al. 2005).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from latentcodec.anomaly.gaussian import Gaussian, GaussianFit
from latentcodec.anomaly.terms import Look, Map, look
from latentcodec.codec import LatentCodec
from latentcodec.images.geometry import resize_short_side

Pixels = UInt8[np.ndarray, "height width 3"]

_LEAST_ERROR = 1e-6

ERRORS: dict[str, Callable[[Look], Map]] = {
    "pixel": lambda seen: seen.error,
    "perceptual": lambda seen: seen.features,
}
"""Terms that are maps: the larger, the stranger."""

VECTORS: dict[str, Callable[[Look], Float[Tensor, "rows columns features"]]] = {
    "detail": lambda seen: torch.log(seen.error + _LEAST_ERROR)[..., None],
    "latent": lambda seen: seen.vectors,
}
"""Terms that are distances to a Gaussian of normal places, so that too little is as strange as too much: a blurred patch is
reconstructed better than a normal image ever is."""

TERMS = ("pixel", "detail", "perceptual", "latent")

WORST_SHARE = 0.01
"""The strangest places of an image that its term is the mean of: a small defect is not drowned by a large normal rest."""

_CALIBRATION_SHARE = 3
"""Every third normal image calibrates and is not fitted on."""
_LEAST_IMAGES = 9


class AnomalyError(ValueError):
    """A detector that cannot be fitted or used as asked. The message says what to do."""


@dataclass(frozen=True)
class Calibration:
    """What a term is like on normal images that nothing was fitted on."""

    median: float
    """Of the images' terms."""
    spread: float
    """Mean distance of the images' terms from that; over 0.8, a standard deviation if they are normal."""
    place_mean: float
    """Of single places, for maps."""
    place_spread: float


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a detector says of one image."""

    score: float
    """0 for a usual normal image, larger is stranger."""
    p_value: float
    """Share of normal images that are at least as strange, as far as the calibration images can tell."""
    anomalous: bool
    terms: dict[str, float]
    """In units of normal images."""
    heat: Float[Tensor, "rows columns"]
    """Mean over the terms of each place, in deviations of normal places."""


@dataclass(frozen=True, eq=False)
class Detector:
    """A fitted detector. `fit` makes one; `files` keeps it."""

    fingerprint: str
    """Of the VAE; another one is refused."""
    size: int
    """Short side that images are resized to, in pixels."""
    rate: float
    """Share of normal images that may be called anomalous."""
    normals: Mapping[str, Gaussian]
    """Of each term of VECTORS."""
    calibrations: dict[str, Calibration]
    """Of each term."""
    scores: Float64[np.ndarray, " images"]
    """Of the calibration images, sorted."""
    images: int
    """That the Gaussians were fitted on."""

    @property
    def threshold(self) -> float:
        """Scores above it are anomalous; infinite if there are too few calibration images for the rate."""
        place = int(np.ceil((len(self.scores) + 1) * (1 - self.rate))) - 1
        return float(self.scores[place]) if place < len(self.scores) else float("inf")

    def score(self, codec: LatentCodec, image: Pixels) -> Verdict:
        """Judge one image of any size.

        Raises:
            AnomalyError: `codec` has another VAE than the detector was fitted with.
        """
        if codec.fingerprint != self.fingerprint:
            raise AnomalyError(
                f"the detector was fitted with the VAE {self.fingerprint}, found {codec.fingerprint}; take that one, or fit anew"
            )
        maps = _maps(look(codec, resize_short_side(image, self.size)), self.normals, list(self.calibrations))
        terms = {name: _in_units(worst(values), self.calibrations[name]) for name, values in maps.items()}
        heat = torch.stack([
            (values - self.calibrations[name].place_mean) / self.calibrations[name].place_spread
            for name, values in maps.items()
        ]).mean(0)  # fmt: skip
        score = float(np.mean(list(terms.values())))
        stranger = len(self.scores) - int(np.searchsorted(self.scores, score))
        return Verdict(score, (1 + stranger) / (1 + len(self.scores)), score > self.threshold, terms, heat)


def fit(
    codec: LatentCodec,
    images: Iterable[Pixels],
    *,
    size: int = 256,
    rate: float = 0.05,
    terms: Sequence[str] = TERMS,
) -> Detector:
    """Learn what is normal: two of three images fit the Gaussians, the third calibrates.

    Args:
        images: normal ones, in an order that does not matter to them; each is read once.
        size: short side that they are resized to.
        rate: share of normal images that may be called anomalous.
        terms: names in `TERMS`.

    Raises:
        AnomalyError: fewer than nine images, an unknown term, a rate outside of 0 to 1.
    """
    if unknown := [name for name in terms if name not in TERMS]:
        raise AnomalyError(f"terms: expected some of {', '.join(TERMS)}; found {', '.join(unknown)}")
    if not terms:
        raise AnomalyError(f"terms: expected some of {', '.join(TERMS)}; found none")
    if not 0 < rate < 1:
        raise AnomalyError(f"rate: expected a share between 0 and 1, found {rate}")
    fits = {name: GaussianFit() for name in terms if name in VECTORS}
    held_out, count = [], 0
    for image in images:
        seen = look(codec, resize_short_side(image, size))
        count += 1
        if count % _CALIBRATION_SHARE == 0:
            held_out.append(seen)
        else:
            for name, of_term in fits.items():
                of_term.add(VECTORS[name](seen).flatten(0, 1))
    if count < _LEAST_IMAGES:
        raise AnomalyError(f"expected at least {_LEAST_IMAGES} normal images, found {count}; give more")
    normals = {name: of_term.fitted() for name, of_term in fits.items()}
    maps = [_maps(seen, normals, terms) for seen in held_out]
    calibrations = {name: _calibration([of_image[name] for of_image in maps]) for name in terms}
    scores = [
        float(np.mean([_in_units(worst(of_image[name]), calibrations[name]) for name in terms])) for of_image in maps
    ]
    return Detector(
        codec.fingerprint, size, rate, normals, calibrations, np.sort(np.array(scores)), count - len(held_out)
    )


def worst(values: Map) -> float:
    """Mean of the strangest places, one at least."""
    count = max(1, round(WORST_SHARE * values.numel()))
    return float(values.flatten().topk(count).values.mean())


def _maps(seen: Look, normals: Mapping[str, Gaussian], terms: Iterable[str]) -> dict[str, Map]:
    """Strangeness of each place, 0 or more."""
    found = {}
    for name in terms:
        if name in ERRORS:
            found[name] = ERRORS[name](seen)
        else:
            vectors = VECTORS[name](seen)
            found[name] = normals[name].distances(vectors.flatten(0, 1)).reshape(vectors.shape[:2])
    return found


def _calibration(maps: Sequence[Map]) -> Calibration:
    values = np.array([worst(of_image) for of_image in maps])
    median = float(np.median(values))
    places = torch.cat([of_image.flatten() for of_image in maps])
    tiny = 1e-12  # images that are all alike
    return Calibration(
        median, float(np.abs(values - median).mean()) / 0.8 + tiny, float(places.mean()), float(places.std()) + tiny
    )


def _in_units(value: float, calibration: Calibration) -> float:
    return (value - calibration.median) / calibration.spread
