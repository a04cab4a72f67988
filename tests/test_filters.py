"""train/filters.py against SciPy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from train.filters import blur, blur_inside, gaussian_window


def test_window_is_a_gaussian() -> None:
    window = np.array(gaussian_window(1.5, 5))
    assert len(window) == 11
    assert window.sum() == pytest.approx(1, abs=1e-15)
    np.testing.assert_allclose(np.log(window / window[5]), -(np.arange(-5, 6) ** 2) / 4.5, atol=1e-12)


def test_blur_inside_is_scipys() -> None:
    images = torch.rand(2, 3, 17, 23)
    expected = images.numpy().astype(np.float64)
    for axis in (2, 3):
        expected = correlate1d(expected, gaussian_window(2.0, 4), axis=axis)
    result = blur_inside(images, sigma=2.0, radius=4)
    np.testing.assert_allclose(result.numpy(), expected[:, :, 4:-4, 4:-4], atol=1e-6)
    with pytest.raises(ValueError, match="a window of 11 pixels does not fit"):
        blur_inside(images[..., :10])


@pytest.mark.parametrize("side", [3, 12, 20])
def test_blur_keeps_size_and_constants_and_agrees_inside(side: int) -> None:
    constant = torch.full((1, 2, side, side + 1), 0.3)
    torch.testing.assert_close(blur(constant), constant)
    images = torch.rand(1, 2, side, side + 1)
    assert blur(images).shape == images.shape
    if side > 10:
        torch.testing.assert_close(blur(images)[:, :, 5:-5, 5:-5], blur_inside(images))
    mirrored = images.flip(3)
    torch.testing.assert_close(blur(mirrored), blur(images).flip(3))
