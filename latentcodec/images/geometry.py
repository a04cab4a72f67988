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


def resize_part(
    image: UInt8[np.ndarray, "height width 3"], resized: tuple[int, int], top: int, left: int, height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """What `crop` would give of the image resized to ``resized`` (height, width), without making the rest of it.

    So a strip of 1 x 10,000 pixels does not become one of 512 x 5,120,000 for the sake of its middle. Values may differ in
    the last bit, and more where the filter overshoots: Pillow rounds between its two passes and takes the cheaper order.

    Raises:
        ValueError: the box is empty or leaves the resized image.
    """
    rows, columns = image.shape[:2]
    if not (0 <= top < top + height <= resized[0] and 0 <= left < left + width <= resized[1]):
        raise ValueError(
            f"resize_part: expected a box inside {resized[0]} x {resized[1]}, found {height} x {width} at ({top}, {left})"
        )
    if image.shape[:2] == resized:
        return crop(image, top, left, height, width)
    down, across = rows / resized[0], columns / resized[1]
    # rounding may put an end a hair outside the image, which Pillow refuses
    box = (left * across, top * down, min((left + width) * across, columns), min((top + height) * down, rows))
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS, box=box))
