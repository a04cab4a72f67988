"""What happens between an image of the source and the network: which part of it, at which size, in which pixels."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

from latentcodec.images.decode import BrokenImageError, OpenImage
from latentcodec.images.geometry import resize_part
from latentcodec.images.items import ImageItem
from latentcodec.store.errors import StoreError

DRAFT = 2
"""JPEGs are decoded at a fraction of their size if that is still this many times what is needed. Against decoding whole,
that is 50 dB on photographs; without the margin it would be 40 dB."""


@dataclass(frozen=True)
class Fit:
    """The image resized to `resized` (height, width), and of that a box."""

    resized: tuple[int, int]
    top: int
    left: int
    height: int
    width: int


class Policy(Protocol):
    """Which shape an image gets. The fields of a policy are numbers; they are what a store's settings say of it."""

    def fit(self, height: int, width: int) -> Fit:
        """For an image of this height and width."""
        ...

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Every (height, width) that it gives; none if any is possible."""
        ...


@dataclass(frozen=True)
class Crop:
    """One shape for all: resized until it is covered, up or down, and cropped around the middle."""

    height: int
    width: int

    def fit(self, height: int, width: int) -> Fit:
        return cover(height, width, self.height, self.width)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        return ((self.height, self.width),)


@dataclass(frozen=True)
class Buckets:
    """Shapes of about as many pixels and different aspect ratios; each image gets the one that is nearest to its own.

    Sides are multiples of `step`, no shape has more than `pixels`, and none fits into another. An image is resized until
    its shape is covered, and cropped around the middle. Aspect ratio bucketing as in NovelAI (2022) and SDXL
    (arXiv:2307.01952, appendix I).
    """

    pixels: int
    step: int = 64
    max_aspect: float = 2.0
    """Of the long to the short side; images beyond lose their ends."""

    @cached_property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        most = self.pixels // self.step**2  # sides are in steps from here on
        tall = [(min(most // width, int(width * self.max_aspect)), width) for width in range(1, most + 1)]
        fitting = {(h, w) for h, w in tall if h >= w}
        fitting |= {(w, h) for h, w in fitting}
        largest: list[tuple[int, int]] = []
        for height, width in sorted(fitting, reverse=True):  # each taller than the next, so it has to be narrower
            if not largest or width > largest[-1][1]:
                largest.append((height, width))
        return tuple((height * self.step, width * self.step) for height, width in reversed(largest))

    def fit(self, height: int, width: int) -> Fit:
        def mismatch(shape: tuple[int, int]) -> float:
            ratio = height * shape[1] / (width * shape[0])
            return max(ratio, 1 / ratio)

        return cover(height, width, *min(self.shapes, key=mismatch))


@dataclass(frozen=True)
class Native:
    """Each image as it is. The network pads it to a multiple of the VAE's factor, by reflection, below and to the right."""

    def fit(self, height: int, width: int) -> Fit:
        return Fit((height, width), 0, 0, height, width)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        return ()


POLICIES: dict[str, type[Crop] | type[Buckets] | type[Native]] = {"crop": Crop, "buckets": Buckets, "native": Native}
"""Name in a store's settings -> policy."""


@dataclass(frozen=True)
class Preprocessing:
    """All of it: decoding to sRGB (see `decode_image`), Lanczos to the shape that the policy says."""

    policy: Crop | Buckets | Native
    min_side: int = 0
    """Images with a shorter side than this, in pixels, are skipped."""
    max_pixels: int = 89_478_485
    """Images with more are skipped."""
    background: tuple[int, int, int] = (255, 255, 255)
    """What transparent images are laid over."""

    def require_factor(self, factor: int) -> None:
        """Check that the shapes suit a VAE.

        Raises:
            StoreError: there are none, or a side is no multiple of the VAE's factor.
        """
        shapes = self.policy.shapes
        if not isinstance(self.policy, Native) and not shapes:
            raise StoreError(f"{self.policy}: no shape has at most that many pixels; raise pixels or lower the step")
        for height, width in shapes:
            if height % factor or width % factor or min(height, width) < 1:
                raise StoreError(
                    f"size: expected multiples of the VAE's factor, {factor}, found {height} x {width}; "
                    f"for example {-(-height // factor) * factor or factor} x {-(-width // factor) * factor or factor}"
                )

    def apply(self, item: ImageItem) -> tuple[UInt8[np.ndarray, "height width 3"], tuple[int, int], Fit]:
        """The pixels for the network, the upright image's own height and width, and what was made of it.

        Raises:
            BrokenImageError: it cannot be decoded, or is too small or too large.
        """
        if isinstance(item.data, np.ndarray):
            height, width = item.data.shape[:2]
            fit = self._fit(item.id, height, width)
            pixels = item.data
        else:
            opened = OpenImage(item.data, id=item.id, max_pixels=self.max_pixels)
            height, width = opened.height, opened.width
            fit = self._fit(item.id, height, width)
            pixels = opened.pixels(background=self.background, draft_size=DRAFT * min(fit.resized))
        part = resize_part(pixels, fit.resized, fit.top, fit.left, fit.height, fit.width)
        return np.ascontiguousarray(part), (height, width), fit

    def _fit(self, id: str, height: int, width: int) -> Fit:
        if min(height, width) < self.min_side:
            raise BrokenImageError(id, f"too small: {width} x {height}, min_side is {self.min_side}")
        return self.policy.fit(height, width)

    def to_json(self) -> dict[str, Any]:
        """Numbers, lists and the policy's name."""
        name = next(name for name, policy in POLICIES.items() if isinstance(self.policy, policy))
        rest = {key: value for key, value in asdict(self).items() if key != "policy"}
        rest["background"] = list(self.background)
        return {"policy": name, **asdict(self.policy), **rest, "filter": "lanczos", "jpeg_draft": DRAFT}

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> "Preprocessing":
        """What `to_json` gave.

        Raises:
            StoreError: made by a version that did it in another way.
        """
        policy = POLICIES[members["policy"]]
        found = cls(
            policy(**{field.name: members[field.name] for field in fields(policy)}),
            members["min_side"],
            members["max_pixels"],
            tuple(members["background"]),
        )
        if found.to_json() != dict(members):
            raise StoreError(
                f"preprocessing: expected {found.to_json()}, found {dict(members)}; use the version that wrote it"
            )
        return found


def cover(height: int, width: int, to_height: int, to_width: int) -> Fit:
    """Resized, keeping its aspect ratio, to the smallest that covers the shape; the box is the shape in its middle."""
    if height * to_width >= width * to_height:
        resized = max(to_height, (height * to_width + width // 2) // width), to_width
    else:
        resized = to_height, max(to_width, (width * to_height + height // 2) // height)
    return Fit(resized, (resized[0] - to_height) // 2, (resized[1] - to_width) // 2, to_height, to_width)
