"""What a difference between two kinds of images is in latents: a direction that others can be moved along."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from latentcodec.latents import Latents


class MeanLatents:
    """Mean of the latents of images that come a few at a time, in float64.

    Args:
        spatial: keep a mean for each place, for images of one size that are aligned (faces, scans); else one for each
            channel, from images of any size.
    """

    def __init__(self, *, spatial: bool = False) -> None:
        self.spatial = spatial
        self.count = 0
        self._sum: Tensor | None = None

    def add(self, latents: Latents) -> None:
        """Take in some images; each counts alike, whatever its size.

        Raises:
            ValueError: `spatial`, and an image of another size than before.
        """
        for tensor in latents.tensors:
            value = tensor.double() if self.spatial else tensor.double().mean(dim=(1, 2), keepdim=True)
            if self._sum is not None and value.shape != self._sum.shape:
                raise ValueError(
                    f"latents: expected {list(self._sum.shape)} as before, found {list(value.shape)}; resize the images "
                    "to one size, or leave out spatial"
                )
            self._sum = value.clone() if self._sum is None else self._sum + value
            self.count += 1

    @property
    def mean(self) -> Float[Tensor, "channels rows columns"]:
        """Of all so far: [channels, 1, 1], or [channels, height, width] if spatial.

        Raises:
            ValueError: there is none.
        """
        if self._sum is None:
            raise ValueError("latents: expected those of at least one image, found none; add some first")
        return (self._sum / self.count).float()


def direction(
    without: Iterable[Latents], with_it: Iterable[Latents], *, spatial: bool = False
) -> Float[Tensor, "channels rows columns"]:
    """The attribute that tells two sets of images apart: the mean of the one less that of the other, in scaled latents.

    (Larsen et al. 2016, arXiv 1512.09300, section 5.1.) With one value a channel it is a matter of colour, brightness and
    texture, since a convolutional latent says what is where; shapes need aligned images and `spatial`.

    Raises:
        ValueError: a set without images, or with `spatial` images of different sizes.
    """
    means = []
    for images in (without, with_it):
        mean = MeanLatents(spatial=spatial)
        for latents in images:
            mean.add(latents)
        means.append(mean.mean)
    return means[1] - means[0]


def move(latents: Latents, along: Float[Tensor, "channels rows columns"], strength: float = 1.0) -> Latents:
    """Images moved along a direction: 1 is the whole way from the one mean to the other, -1 the way back.

    Raises:
        ValueError: a direction for other channels, or for images of another size.
    """
    moved = []
    for index, tensor in enumerate(latents.tensors):
        if along.shape[0] != tensor.shape[0] or along.shape[1:] not in ((1, 1), tensor.shape[1:]):
            raise ValueError(
                f"along: expected [{tensor.shape[0]}, 1, 1] or {list(tensor.shape)} for latents[{index}], "
                f"found {list(along.shape)}; take the direction with the same VAE and size"
            )
        moved.append(tensor + strength * along.to(tensor.device))
    return Latents(tuple(moved), latents.sizes, latents.methods)
