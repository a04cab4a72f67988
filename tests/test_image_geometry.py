"""Resizing and cropping."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from latentcodec.images.geometry import center_crop, crop, resize, resize_part, resize_short_side

SIDES = st.integers(1, 90)


def numbered(height: int, width: int) -> np.ndarray:
    """Pixels that say where they are: (row, column, 7)."""
    image = np.full((height, width, 3), 7, dtype=np.uint8)
    image[..., 0] = np.arange(height)[:, None]
    image[..., 1] = np.arange(width)
    return image


@given(SIDES, SIDES, st.integers(1, 60))
def test_the_short_side_is_exact_and_the_long_one_nearest(height: int, width: int, size: int) -> None:
    resized = resize_short_side(numbered(height, width), size)
    assert min(resized.shape[:2]) == size
    assert abs(max(resized.shape[:2]) - size * max(height, width) / min(height, width)) <= 0.5
    assert (resized.shape[0] >= resized.shape[1]) == (height >= width) or size in resized.shape[:2]
    assert resized.dtype == np.uint8


def test_resizing_is_pillows_lanczos() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((30, 20), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(resize_short_side(image, 20), expected)
    np.testing.assert_array_equal(resize(image, 20, 30), expected)


def test_shrinking_does_not_alias() -> None:
    lines = np.zeros((128, 128, 3), dtype=np.uint8)
    lines[:, ::2] = 255
    inner = resize_short_side(lines, 16)[2:-2, 2:-2]
    assert np.abs(inner.astype(int) - 127).max() <= 2


def test_the_same_size_is_no_copy() -> None:
    image = numbered(8, 12)
    assert resize_short_side(image, 8) is image


@given(SIDES, SIDES, st.data())
def test_crop_takes_the_box(height: int, width: int, data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    top, left = data.draw(st.integers(0, height - rows)), data.draw(st.integers(0, width - columns))
    cut = crop(numbered(height, width), top, left, rows, columns)
    assert cut.shape == (rows, columns, 3)
    assert cut[0, 0].tolist() == [top, left, 7]
    assert cut[-1, -1].tolist() == [top + rows - 1, left + columns - 1, 7]


@given(SIDES, SIDES, st.data())
def test_center_crop_leaves_margins_that_differ_by_at_most_one(height: int, width: int, data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    cut = center_crop(numbered(height, width), rows, columns)
    assert cut.shape == (rows, columns, 3)
    for before, last, side in ((cut[0, 0, 0], cut[-1, -1, 0], height), (cut[0, 0, 1], cut[-1, -1, 1], width)):
        after = side - 1 - int(last)
        assert 0 <= after - int(before) <= 1


@pytest.mark.parametrize("box", [(-1, 0, 2, 2), (0, 0, 0, 3), (3, 0, 6, 2), (0, 9, 2, 4), (0, 0, 2, -1)])
def test_a_box_outside_the_image_is_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"crop: expected a box inside the 8 x 12 image, found"):
        crop(numbered(8, 12), *box)


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"crop: expected a box inside the 8 x 12 image, found 9 x 2"):
        center_crop(numbered(8, 12), 9, 2)
    with pytest.raises(ValueError, match=r"size: expected sides of at least 1 pixel, found 0 x 0"):
        resize_short_side(numbered(8, 12), 0)


@given(SIDES, SIDES, st.integers(1, 60), st.integers(1, 60), st.data())
def test_a_resized_part_is_cropped_from_the_resized_whole(
    height: int, width: int, rows: int, columns: int, data: st.DataObject
) -> None:
    image = numbered(height, width) + np.uint8(60)  # no overshoot, see resize_part
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    box = (top, left, data.draw(st.integers(1, rows - top)), data.draw(st.integers(1, columns - left)))
    expected = crop(resize(image, rows, columns), *box)
    found = resize_part(image, (rows, columns), *box)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_the_middle_of_a_very_long_strip_is_cheap() -> None:
    strip = numbered(1, 10_000)
    assert resize_part(strip, (5000, 50_000_000), 0, 25_000_000, 64, 64).shape == (64, 64, 3)
    with pytest.raises(ValueError, match="expected a box inside 64 x 64, found 10 x 10 at"):
        resize_part(strip, (64, 64), 60, 0, 10, 10)
