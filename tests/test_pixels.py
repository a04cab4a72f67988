"""Pixels to tensors and back."""

import numpy as np
import pytest
import torch

from latentcodec.images.pixels import normalize, to_tensor, to_uint8

EVERY_VALUE = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)


def test_range_and_layout() -> None:
    image = np.zeros((2, 5, 3), dtype=np.uint8)
    image[0, 4] = (255, 0, 127)
    tensor = to_tensor(image)
    assert tensor.shape == (3, 2, 5)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert tensor[:, 0, 4].tolist() == [1.0, -1.0, pytest.approx(127 / 127.5 - 1)]
    assert tensor[:, 1].unique().tolist() == [-1.0]


def test_every_value_comes_back() -> None:
    np.testing.assert_array_equal(to_uint8(to_tensor(EVERY_VALUE)[None])[0], EVERY_VALUE)


def test_normalize_of_a_batch_equals_to_tensor_of_each() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 8, 3), dtype=np.uint8)
    batch = normalize(torch.from_numpy(images).permute(0, 1, 4, 2, 3))
    assert batch.shape == (2, 4, 3, 6, 8)
    for row in range(2):
        for column in range(4):
            assert torch.equal(batch[row, column], to_tensor(images[row, column]))


def test_a_view_or_read_only_image_is_taken_and_not_written_to() -> None:
    image = EVERY_VALUE.copy()
    image.flags.writeable = False
    to_tensor(image[::-1, 1:])
    tensor = to_tensor(image)
    tensor.zero_()
    np.testing.assert_array_equal(image, EVERY_VALUE)


def test_to_uint8_clamps_and_rounds_to_nearest() -> None:
    values = torch.tensor([-5.0, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 1.0, 7.0]).view(1, 1, 1, 6).repeat(1, 3, 1, 1)
    assert to_uint8(values)[0, 0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_to_uint8_computes_in_float32(dtype: torch.dtype) -> None:
    values = to_tensor(EVERY_VALUE)[None].to(dtype).requires_grad_()
    expected = ((values.detach().double() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(to_uint8(values), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_to_uint8_refuses_what_is_no_number(bad: float) -> None:
    images = torch.zeros(1, 3, 2, 2)
    images[0, 1, 1, 0] = bad
    with pytest.raises(ValueError, match=r"images: expected finite values, found NaN or infinity.*bfloat16 or float32"):
        to_uint8(images)


@pytest.mark.gpu
def test_normalize_on_the_device_equals_the_cpu() -> None:
    images = torch.from_numpy(EVERY_VALUE).permute(2, 0, 1)
    # CUDA divides by a number by multiplying with its reciprocal: one unit in the last place may differ
    torch.testing.assert_close(normalize(images.cuda()).cpu(), normalize(images), rtol=0, atol=2.0**-22)
    np.testing.assert_array_equal(to_uint8(normalize(images.cuda())[None])[0], EVERY_VALUE)
