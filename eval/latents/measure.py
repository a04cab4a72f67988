"""Everything about the latents of one model over many images, in two passes and constant memory.

The first pass encodes and adds up statistics; the second, over fewer images, decodes what was disturbed by amounts that
the first has found out.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from eval.images import NamedImage
from eval.latents.distribution import RunningDistribution
from eval.latents.disturbances import DecodedError, unit_noise, with_noise
from eval.latents.equivariance import RunningEquivariance
from eval.latents.models import LatentModel, Posterior
from eval.latents.posteriors import RunningPosteriors
from eval.latents.spectrum import RunningSpectrum, cut_high_frequencies
from latentcodec.images.pixels import to_tensor, to_uint8
from latentcodec.vae.equivariance import Transform


class LatentsError(ValueError):
    """Images or latents that cannot be measured; the message says which and why."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of one size."""

    ids: tuple[str, ...]
    images: Float[Tensor, "batch 3 height width"]
    """In [-1, 1]."""


def batches(images: Iterable[NamedImage], size: int) -> Iterator[Batch]:
    """`size` images at a time, fewer at the end."""
    iterator = iter(images)
    while part := list(islice(iterator, size)):
        yield Batch(tuple(image.id for image in part), torch.stack([to_tensor(image.pixels) for image in part]))


@dataclass(frozen=True, eq=False)
class Survey:
    """What encoding alone tells. Parts merge exactly."""

    distribution: RunningDistribution
    """Of the posterior's mean."""
    posteriors: RunningPosteriors
    spectrum: RunningSpectrum
    """Of the posterior's mean."""

    @classmethod
    def of(cls, posterior: Posterior) -> "Survey":
        """Of one batch."""
        mean = posterior.mean
        return cls(RunningDistribution.of(mean), RunningPosteriors.of(posterior), RunningSpectrum.of(mean))

    def merge(self, other: "Survey") -> "Survey":
        """Of both parts together."""
        return Survey(
            self.distribution.merge(other.distribution),
            self.posteriors.merge(other.posteriors),
            self.spectrum.merge(other.spectrum),
        )


def survey(model: LatentModel, parts: Iterable[Batch]) -> Survey:
    """The first pass.

    Raises:
        LatentsError: latents that are NaN or infinite; no images; images of several sizes.
    """
    total: Survey | None = None
    for part in parts:
        with torch.inference_mode(), _naming(part):
            posterior = model.encode(part.images)
        finite = torch.isfinite(posterior.mean) & torch.isfinite(posterior.logvar)
        if not finite.all():
            broken = [id for id, ok in zip(part.ids, finite.flatten(1).all(1).tolist(), strict=True) if not ok]
            raise LatentsError(
                f"{', '.join(broken[:3])}: latents are NaN or infinite; if the network is in float16, use float32"
            )
        found = Survey.of(posterior)
        with _naming(part):
            total = found if total is None else total.merge(found)
    if total is None:
        raise LatentsError("images: expected at least one, found none")
    return total


@dataclass(frozen=True)
class Disturbances:
    """What the second pass does to latents."""

    transforms: dict[str, Transform] = field(default_factory=dict)
    """By name, see `eval.latents.equivariance.transforms`."""
    noise: tuple[float, ...] = ()
    """Deviations of normal noise, in units of each channel's own."""
    keep: tuple[float, ...] = ()
    """Shares of the Nyquist frequency; what is above is cut."""
    seed: int = 0
    """Of the noise."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """What decoding tells. Parts merge exactly; `errors` hold one entry for each image."""

    equivariance: dict[str, RunningEquivariance]
    noise: dict[float, tuple[DecodedError, ...]]
    cut: dict[float, tuple[DecodedError, ...]]

    def merge(self, other: "Decoded") -> "Decoded":
        """Of both parts together."""
        return Decoded(
            {name: value.merge(other.equivariance[name]) for name, value in self.equivariance.items()},
            {size: errors + other.noise[size] for size, errors in self.noise.items()},
            {keep: errors + other.cut[keep] for keep, errors in self.cut.items()},
        )


def decode_disturbed(
    model: LatentModel, parts: Iterable[Batch], std: Float64[Tensor, " channels"], disturbances: Disturbances
) -> Decoded:
    """The second pass.

    Args:
        std: of each channel, from the first pass.

    Raises:
        LatentsError: no images; decoded pixels that are NaN or infinite.
    """
    total: Decoded | None = None
    for part in parts:
        with torch.inference_mode(), _naming(part):
            found = _decode_batch(model, part, std, disturbances)
        total = found if total is None else total.merge(found)
    if total is None:
        raise LatentsError("images to decode: expected at least one, found none")
    return total


@contextmanager
def _naming(part: Batch) -> Iterator[None]:
    """Errors of a model, with the images that it was given."""
    try:
        yield
    except ValueError as error:
        raise LatentsError(f"{', '.join(part.ids)}: {error}") from error


def _decode_batch(
    model: LatentModel, part: Batch, std: Float64[Tensor, " channels"], disturbances: Disturbances
) -> Decoded:
    latents = model.encode(part.images).mean
    originals = to_uint8(part.images)
    undisturbed = to_uint8(model.decode(latents).float())
    noise = unit_noise(part.ids, latents.shape[1:], disturbances.seed)

    def errors(disturbed: Tensor) -> tuple[DecodedError, ...]:
        pictures = to_uint8(model.decode(disturbed).float())
        return tuple(DecodedError.of(*triple) for triple in zip(originals, undisturbed, pictures, strict=True))

    return Decoded(
        {
            name: RunningEquivariance.of(model, part.images, latents, transform)
            for name, transform in disturbances.transforms.items()
        },
        {size: errors(with_noise(latents, noise, std, size)) for size in disturbances.noise},
        {keep: errors(cut_high_frequencies(latents, keep)) for keep in disturbances.keep},
    )


def require_divisible(size: int, factors: dict[str, int], scales: Sequence[float]) -> None:
    """Check that crops of `size` pixels suit every model, whose factors come by name, and every scale.

    Raises:
        LatentsError: not so; names the model and the remedy.
    """
    for name, factor in factors.items():
        if size % factor:
            raise LatentsError(f"size: {name} takes multiples of {factor} pixels, found {size}; give such a --size")
        least = min(scales, default=1.0)
        if (size // factor) * least < 4:
            raise LatentsError(
                f"size: at {size} pixels {name} has {size // factor} latent positions along a side, of which the scale "
                f"{least:g} leaves fewer than 4; give a larger --size or other --scales"
            )
