"""Latents as colours: their three strongest principal components as red, green and blue."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from PIL import Image
from torch import Tensor

from eval.latents.measure import Batch
from eval.latents.models import LatentModel
from eval.pictures import PictureFolder
from latentcodec.images.pixels import to_uint8

SPREAD = 2.5
"""A component this many of its deviations from its mean has full or no intensity; one at its mean is mid-grey."""


@dataclass(frozen=True, eq=False)
class PrincipalColours:
    """Axes over the channels. Fitted to all images at once, so that pictures of one VAE can be compared."""

    mean: Float64[Tensor, " channels"]
    axes: Float64[Tensor, "channels 3"]
    """Orthonormal, strongest first; each has its largest entry positive. With fewer than three channels the rest is 0."""
    deviations: Float64[Tensor, "3"]
    """Along each axis."""
    explained: float
    """Share of the latents' variance that the axes hold."""

    @classmethod
    def fit(
        cls, mean: Float64[Tensor, " channels"], covariance: Float64[Tensor, "channels channels"]
    ) -> "PrincipalColours":
        """From what `RunningDistribution` has measured."""
        variances, vectors = (values.flip(-1) for values in torch.linalg.eigh(covariance))
        variances = variances.clamp(min=0)
        count = min(3, len(mean))
        largest = vectors.abs().argmax(dim=0, keepdim=True)
        vectors = vectors * vectors.gather(0, largest).sign()  # an eigenvector has no sign of its own
        axes, deviations = torch.zeros(len(mean), 3).double(), torch.zeros(3).double()
        axes[:, :count], deviations[:count] = vectors[:, :count], variances[:count].sqrt()
        total = variances.sum().item()
        return cls(mean, axes, deviations, variances[:count].sum().item() / total if total > 0 else 1.0)

    def picture(
        self, latents: Float[Tensor, "channels height width"], factor: int = 1
    ) -> UInt8[np.ndarray, "image_height image_width 3"]:
        """One image's latents, each position a square of `factor` pixels."""
        deviations = latents.detach().cpu().double() - self.mean[:, None, None]
        components = torch.einsum("ck,chw->khw", self.axes, deviations)
        scale = torch.where(self.deviations > 0, SPREAD * self.deviations, torch.inf)
        pixels = to_uint8((components / scale[:, None, None]).float()[None])[0]
        return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


class Sheet:
    """A folder with originals and latents of several VAEs, each picture a file, and all of them in `sheet.png`.

    Args:
        folder: made when the first picture is saved; existing files are replaced.
        relative_to: as for `PictureFolder`.
    """

    def __init__(self, folder: str | Path, relative_to: str | Path | None = None) -> None:
        self._folder = PictureFolder(folder, relative_to)
        self._rows: dict[str, list[UInt8[np.ndarray, "height width 3"]]] = {}

    def add(
        self, vae: str, model: LatentModel, parts: Iterable[Batch], colours: PrincipalColours
    ) -> list[dict[str, str]]:
        """Save the latents of each image, at the size of the image.

        Returns:
            For each, its id (`image`), and the files of the `original` and of its `latents`, relative to `relative_to`.
        """
        names = []
        for part in parts:
            with torch.inference_mode():
                means = model.encode(part.images).mean
            for id, original, latents in zip(part.ids, to_uint8(part.images), means, strict=True):
                picture = colours.picture(latents, model.factor)
                saved = self._folder.save(vae, "latents", id, picture)
                names.append({"image": id, "original": self._folder.save_original(id, original), "latents": saved})
                self._rows.setdefault(id, [original]).append(picture)
        return names

    def save(self) -> Path:
        """Write all together: a row for each image, the original first, then each VAE in the order they came."""
        path = self._folder.folder / "sheet.png"
        Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in self._rows.values()])).save(path)
        return path
