"""What a `LatentDataset` gives: one row, or several of one shape."""

from typing import NotRequired, TypedDict

from jaxtyping import Bool, Float, Int64
from torch import Tensor

Size = tuple[int, int]
"""Height and width, or top and left, in pixels."""


class LatentSample(TypedDict):
    """One row. The sizes are named as in SDXL, which conditions on them (arXiv:2307.01952, section 2.2)."""

    latents: Float[Tensor, "channels height width"]
    """float32, scaled, ready for a diffusion model."""
    row: int
    mirrored: bool
    """Whether these are the latents of the image mirrored left to right."""
    id: NotRequired[str]
    """Of the image in its source. This and what follows is there if it is one of the dataset's `fields`."""
    original_size: NotRequired[Size]
    """Of the image as it came."""
    crop_top_left: NotRequired[Size]
    """Of the box that was encoded, in the resized image; in the mirrored one if `mirrored`."""
    target_size: NotRequired[Size]
    """Of that box."""
    caption: NotRequired[str | None]
    label: NotRequired[int | None]


class LatentBatch(TypedDict):
    """Several rows; the members are as in `LatentSample`."""

    latents: Float[Tensor, "batch channels height width"]
    row: Int64[Tensor, " batch"]
    mirrored: Bool[Tensor, " batch"]
    id: NotRequired[list[str]]
    original_size: NotRequired[Int64[Tensor, "batch 2"]]
    crop_top_left: NotRequired[Int64[Tensor, "batch 2"]]
    target_size: NotRequired[Int64[Tensor, "batch 2"]]
    caption: NotRequired[list[str | None]]
    label: NotRequired[Int64[Tensor, " batch"] | list[int | None]]
    """A tensor if every row of the store has one."""
