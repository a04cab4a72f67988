"""Endless synthetic images: something to train, test and measure on where no photographs are at hand.

Each is a dead leaves image (see procedural_shapes.py): overlapping discs, ellipses, polygons, ragged blobs, curves and
text-like strokes of all sizes, with natural colours, textures and light. Image ``index`` of ``seed`` is a pure function
of the two, bit for bit the same on every machine.
"""

import numpy as np
from jaxtyping import Float32, UInt8

from latentcodec.images.items import ImageItem, SourceError, checked_index, listing_hash
from latentcodec.images.procedural_random import Draws
from latentcodec.images.procedural_shapes import edges, leaf_count, paint_leaves, power_law_radii
from latentcodec.images.procedural_textures import noise_fields, shade

LENGTH = 2**31 - 1
_SMALLEST_RADII = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 18.0)


class ProceduralSource:
    """2^31 - 1 synthetic images, ``uint8 [size, size, 3]``; id ``procedural:seed/index``.

    Args:
        seed: another seed, other images; 0 ... 2^64 - 1.
        size: height and width in pixels.

    Raises:
        SourceError: seed or size out of range.
    """

    def __init__(self, seed: int = 0, *, size: int = 256) -> None:
        if not 0 <= seed < 2**64:
            raise SourceError(f"procedural: expected a seed of 0 ... 2^64 - 1, found {seed}")
        if not 16 <= size <= 4096:
            raise SourceError(f"procedural: expected a size of 16 ... 4096 pixels, found {size}")
        self.seed, self.size = seed, size

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> ImageItem:
        index = checked_index(index, LENGTH)
        metadata = {"seed": self.seed, "index": index}
        return ImageItem(f"procedural:{self.seed}/{index}", render(self.seed, index, self.size), metadata)

    def listing(self) -> str:
        """See `ListedSource`."""
        return listing_hash("procedural", self.seed, self.size)


def open_procedural(seed: str = "", *, size: int = 256) -> ProceduralSource:
    """``procedural`` or ``procedural:seed`` as a source of ``size`` x ``size`` images.

    Raises:
        SourceError: the seed is not an integer, or out of range.
    """
    try:
        number = int(seed or "0")
    except ValueError as error:
        raise SourceError(f"procedural:{seed}: expected an integer seed behind the colon, found {seed!r}") from error
    return ProceduralSource(number, size=size)


def render(seed: int, index: int, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Draws one image."""
    draws = Draws(seed, index)
    # the scene's character: grain of the leaves, how crowded, how textured, how much text and line work
    smallest = _SMALLEST_RADII[draws.integer(len(_SMALLEST_RADII))]
    largest = max(smallest * 2, size * draws.number(0.15, 0.8))
    coverage = (0.4, 1.0, 2.0, 3.0, 5.0)[draws.integer(5)]
    count = leaf_count(size, smallest, largest, coverage)
    radii = power_law_radii(draws, count, smallest, largest)
    texts = (0, 0, 0, 1, 2, 4)[draws.integer(6)]
    strokes = (0, 0, 3, 12, 40)[draws.integer(5)]
    round_share = draws.number()
    noise = noise_fields(draws)
    labels, centres, reach = paint_leaves(
        draws, size, radii, noise[1], round_share=round_share, texts=texts, strokes=strokes
    )
    image = shade(draws, labels, centres, reach, noise, textured_share=draws.number())

    softness = np.float32(draws.number(0.4, 1.0))  # of edges: light anti-aliasing
    edge = np.flatnonzero(edges(labels))
    for channel, smooth in zip(image.reshape(3, -1), _blur(image).reshape(3, -1), strict=True):
        channel[edge] += softness * (smooth[edge] - channel[edge])
    if draws.number() < 0.25:
        image = _blur(image)  # a little out of focus
    if draws.number() < 0.4:
        grain = draws.octets(size, size).astype(np.float32) / 255 - np.float32(0.5)
        image += grain * np.float32(draws.number(0.01, 0.08))
    pixels = np.empty((size, size, 3), dtype=np.uint8)
    for number, channel in enumerate(image):
        pixels[..., number] = np.clip(channel, 0, 1) * 255 + np.float32(0.5)
    return pixels


def _blur(image: Float32[np.ndarray, "3 height width"]) -> Float32[np.ndarray, "3 height width"]:
    """The binomial filter [1 2 1] / 4 along both sides, the outermost pixels repeated."""
    for _ in range(2):  # along the last axis, then, turned, along the other
        total = image * 2
        total[..., 1:] += image[..., :-1]
        total[..., :-1] += image[..., 1:]
        total[..., 0] += image[..., 0]
        total[..., -1] += image[..., -1]
        total *= np.float32(0.25)
        image = total.swapaxes(1, 2)
    return image
