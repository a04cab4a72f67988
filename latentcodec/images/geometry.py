"""Resizing and cropping of ``uint8 HWC`` images, before they become tensors.

Resizing works on sRGB values, as training data pipelines do, not on linear light.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def resize(image: UInt8[np.ndarray, "height width 3"], height: int, width: int) -> UInt8[np.ndarray, "new_h new_w 3"]:
    """Resizes with Pillow's Lanczos filter, widened when shrinking so that it does not alias.

    An image of the wanted size is returned as it is, not copied.

    Raises:
        ValueError: a side below 1.
    """
    if height < 1 or width < 1:
        raise ValueError(f"size: expected sides of at least 1 pixel, found {height} x {width}")
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def resize_short_side(image: UInt8[np.ndarray, "height width 3"], size: int) -> UInt8[np.ndarray, "new_h new_w 3"]:
    """Resizes so that the short side is ``size`` pixels, up or down; the long side is rounded to nearest.

    Raises:
        ValueError: ``size`` below 1.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    return resize(image, *((side * size + short // 2) // short for side in (height, width)))


def crop(
    image: UInt8[np.ndarray, "height width 3"], top: int, left: int, height: int, width: int
) -> UInt8[np.ndarray, "new_h new_w 3"]:
    """Cuts out a box; a view of ``image``, not a copy.

    Raises:
        ValueError: the box is empty or leaves the image.
    """
    rows, columns = image.shape[:2]
    if not (0 <= top < top + height <= rows and 0 <= left < left + width <= columns):
        raise ValueError(
            f"crop: expected a box inside the {rows} x {columns} image, found {height} x {width} at ({top}, {left})"
        )
    return image[top : top + height, left : left + width]


def center_crop(
    image: UInt8[np.ndarray, "height width 3"], height: int, width: int
) -> UInt8[np.ndarray, "new_h new_w 3"]:
    """Cuts out the middle; where it cannot be centred exactly, half a pixel towards the top left. A view.

    Raises:
        ValueError: the image is smaller than the crop.
    """
    rows, columns = image.shape[:2]
    return crop(image, (rows - height) // 2, (columns - width) // 2, height, width)
