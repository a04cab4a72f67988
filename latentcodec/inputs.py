"""Everything that a codec takes for an image: paths, Pillow images, arrays, tensors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from latentcodec.images.color import to_srgb
from latentcodec.images.decode import decode_image
from latentcodec.images.pixels import normalize

ImageLike = str | Path | Image.Image | np.ndarray | Tensor
Images = ImageLike | Sequence[ImageLike]

Pixels = UInt8[np.ndarray, "_ _ 3"] | Float[Tensor, "3 _ _"]
"""One image: uint8 HWC, or float CHW in [-1, 1]."""

_WHITE = (255, 255, 255)


def read_images(images: Images) -> list[Pixels]:
    """One entry for each image: of a list, of a batch, or of the single image that was given.

    Args:
        images: a path; a Pillow image of any mode; `uint8 [height, width, 3]` array; `float [3, height, width]` or
            `float [batch, 3, height, width]` tensor in [-1, 1]; or a list of these.

    Raises:
        BrokenImageError: a path that cannot be read as an image.
        ValueError, TypeError: anything else than the above; values that are not in [-1, 1] by far.
    """
    if isinstance(images, Tensor) and images.ndim == 4:
        return [_check_tensor(images[index], f"images[{index}]") for index in range(len(images))]
    if isinstance(images, list | tuple):
        return [_read(image, f"images[{index}]") for index, image in enumerate(images)]
    return [_read(images, "images")]


def _read(image: Any, name: str) -> Pixels:
    if isinstance(image, str | Path):
        return decode_image(image)
    if isinstance(image, Image.Image):
        return np.array(to_srgb(ImageOps.exif_transpose(image), _WHITE, name))
    if isinstance(image, Tensor):
        return _check_tensor(image, name)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(
                f"{name}: expected a uint8 array [height, width, 3], found {image.dtype} {list(image.shape)}; "
                "pass floats as a tensor [3, height, width] in [-1, 1]"
            )
        return image
    raise TypeError(f"{name}: expected a path, Pillow image, uint8 array or float tensor, found {type(image).__name__}")


def _check_tensor(image: Tensor, name: str) -> Float[Tensor, "3 height width"]:
    if not image.is_floating_point() or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(
            f"{name}: expected a float tensor [3, height, width] in [-1, 1], found {image.dtype} {list(image.shape)}"
        )
    low, high = (value.item() for value in image.detach().aminmax())
    if not (low >= -2 and high <= 2):  # also NaN; filters may overshoot [-1, 1] a little
        raise ValueError(
            f"{name}: expected values in [-1, 1], found {low:g} ... {high:g}; pixels of 0 ... 255 become that by x / 127.5 - 1"
        )
    return image


def size_of(image: Pixels) -> tuple[int, int]:
    """Height and width."""
    height, width = image.shape[:2] if isinstance(image, np.ndarray) else image.shape[1:]
    return int(height), int(width)


def to_network(image: Pixels, device: torch.device) -> Float[Tensor, "3 height width"]:
    """float32 in [-1, 1] on `device`. Bytes are sent there as bytes, a quarter of the traffic."""
    if isinstance(image, Tensor):
        return image.to(device, torch.float32)
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"]))
    return normalize(pixels.to(device).permute(2, 0, 1).contiguous())
