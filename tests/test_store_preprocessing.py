"""From an image of the source to pixels for the network: shapes, boxes, what is skipped, what is carried along."""

import io
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from latentcodec.images.decode import BrokenImageError
from latentcodec.images.geometry import center_crop, resize
from latentcodec.images.items import ImageItem
from latentcodec.store.errors import StoreError
from latentcodec.store.prepare import split_metadata
from latentcodec.store.preprocessing import POLICIES, Buckets, Crop, Native, Preprocessing, cover

SIDES = st.integers(1, 20_000)


def photo(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 200 // height, columns * 200 // width, (rows + columns) % 50], axis=2).astype(np.uint8)


def encoded(image: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, **options)
    return buffer.getvalue()


@given(SIDES, SIDES, st.integers(1, 2000), st.integers(1, 2000))
def test_cover_covers_tightly_and_keeps_the_aspect_ratio(height: int, width: int, rows: int, columns: int) -> None:
    fit = cover(height, width, rows, columns)
    assert fit.resized[0] == rows or fit.resized[1] == columns
    assert fit.resized[0] >= rows
    assert fit.resized[1] >= columns
    scale = max(rows / height, columns / width)
    assert abs(fit.resized[0] - height * scale) <= 0.5 + 1e-6
    assert abs(fit.resized[1] - width * scale) <= 0.5 + 1e-6
    assert (fit.height, fit.width) == (rows, columns)
    for margin, side, whole in ((fit.top, rows, fit.resized[0]), (fit.left, columns, fit.resized[1])):
        assert 0 <= whole - side - 2 * margin <= 1


@settings(max_examples=50, deadline=None)
@given(st.integers(64, 1400), st.sampled_from([8, 16, 32, 64]), st.floats(1, 6))
@example(100, 8, 1.0)
def test_buckets_are_multiples_of_the_step_within_the_budget(size: int, step: int, most: float) -> None:
    shapes = Buckets(size * size, step, most).shapes
    assert len(set(shapes)) == len(shapes) > 0
    assert {(width, height) for height, width in shapes} == set(shapes)
    for height, width in shapes:
        assert height % step == width % step == 0
        assert height * width <= size * size
        assert max(height, width) <= most * min(height, width)
        # one step more in either direction is over the budget, or too long, or another bucket's business
        assert not any((h > height and w >= width) or (h >= height and w > width) for h, w in shapes)


def test_buckets_are_those_of_sdxl() -> None:
    expected = {(768, 1344), (832, 1216), (896, 1152), (1024, 1024), (1152, 896), (1216, 832), (1344, 768)}
    assert expected <= set(Buckets(1024 * 1024).shapes)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000))
def test_an_image_gets_the_bucket_of_the_nearest_aspect_ratio(height: int, width: int) -> None:
    buckets = Buckets(512 * 512, 64, 2.0)
    fit = buckets.fit(height, width)
    own = math.log(height / width)
    distance = {shape: abs(own - math.log(shape[0] / shape[1])) for shape in buckets.shapes}
    assert distance[fit.height, fit.width] <= min(distance.values()) + 1e-9


def test_a_crop_is_the_middle_of_the_resized_image() -> None:
    image = photo(90, 160)
    pixels, size, fit = Preprocessing(Crop(32, 48)).apply(ImageItem("a", encoded(image)))
    assert size == (90, 160)
    assert (fit.resized, fit.top, fit.left) == ((32, 57), 0, 4)
    expected = center_crop(resize(image, 32, 57), 32, 48)
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    assert pixels.flags.c_contiguous
    same, _, _ = Preprocessing(Crop(90, 160)).apply(ImageItem("a", encoded(image)))
    assert np.array_equal(same, image)


def test_pixels_of_a_source_that_makes_them_are_treated_alike() -> None:
    image = photo(90, 160)
    preprocessing = Preprocessing(Crop(32, 48))
    made, size, _ = preprocessing.apply(ImageItem("a", image))
    assert size == (90, 160)
    assert np.array_equal(made, preprocessing.apply(ImageItem("a", encoded(image)))[0])


def test_large_jpegs_are_decoded_small_without_being_seen() -> None:
    image = photo(1024, 1536)
    data = encoded(image, "JPEG", quality=95)
    pixels, size, _ = Preprocessing(Crop(64, 64)).apply(ImageItem("a", data))
    assert size == (1024, 1536)
    whole = center_crop(resize(np.array(Image.open(io.BytesIO(data))), 64, 96), 64, 64)
    error = np.mean((pixels.astype(float) - whole) ** 2)
    assert 10 * np.log10(255**2 / error) > 45


def test_turned_images_are_measured_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels, size, fit = Preprocessing(Crop(32, 32)).apply(ImageItem("a", encoded(photo(64, 128), "JPEG", exif=exif)))
    assert size == (128, 64)
    assert fit.resized == (64, 32)
    assert pixels.shape == (32, 32, 3)


def test_native_leaves_the_image_alone() -> None:
    image = photo(37, 53)
    pixels, size, fit = Preprocessing(Native()).apply(ImageItem("a", encoded(image)))
    assert np.array_equal(pixels, image)
    assert (size, fit.resized, fit.top, fit.left, fit.height, fit.width) == ((37, 53), (37, 53), 0, 0, 37, 53)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1)])
def test_tiny_and_endless_images_are_encoded_unless_a_least_side_is_asked_for(shape: tuple[int, int]) -> None:
    item = ImageItem("tiny.png", encoded(photo(*shape)))
    assert Preprocessing(Crop(64, 64)).apply(item)[0].shape == (64, 64, 3)
    with pytest.raises(BrokenImageError, match=rf"tiny\.png: too small: {shape[1]} x {shape[0]}, min_side is 32"):
        Preprocessing(Crop(64, 64), min_side=32).apply(item)


def test_too_many_pixels_and_broken_files_are_broken_images() -> None:
    with pytest.raises(BrokenImageError, match="too large"):
        Preprocessing(Native(), max_pixels=100).apply(ImageItem("a", encoded(photo(20, 20))))
    with pytest.raises(BrokenImageError, match="empty file"):
        Preprocessing(Native()).apply(ImageItem("a", b""))


@pytest.mark.parametrize("policy", [Crop(64, 32), Buckets(9000, 16, 3.5), Native()])
def test_json_and_back(policy: Any) -> None:
    preprocessing = Preprocessing(policy, min_side=3, max_pixels=10**6, background=(1, 2, 3))
    members = json.loads(json.dumps(preprocessing.to_json()))
    assert Preprocessing.from_json(members) == preprocessing
    assert POLICIES[members["policy"]] is type(policy)
    with pytest.raises(StoreError, match="use the version that wrote it"):
        Preprocessing.from_json({**members, "filter": "bicubic"})


def test_shapes_must_suit_the_vae() -> None:
    Preprocessing(Native()).require_factor(8)
    Preprocessing(Buckets(64 * 64, 16)).require_factor(8)
    with pytest.raises(
        StoreError, match="expected multiples of the VAE's factor, 8, found 60 x 64; for example 64 x 64"
    ):
        Preprocessing(Crop(60, 64)).require_factor(8)
    with pytest.raises(StoreError, match="found 0 x 8; for example 8 x 8"):
        Preprocessing(Crop(0, 8)).require_factor(8)
    with pytest.raises(StoreError, match="lower the step"):
        Preprocessing(Buckets(32 * 32, 64)).require_factor(8)


def test_captions_labels_and_the_rest() -> None:
    assert split_metadata({}, "caption", "label") == (None, None, None)
    assert split_metadata({"caption": "a", "label": 3}, "caption", "label") == ("a", 3, None)
    caption, label, rest = split_metadata({"text": "a", "label": 3, "url": "u", "raw": b"x"}, "text", "class")
    assert (caption, label) == ("a", None)
    assert json.loads(rest or "") == {"label": 3, "url": "u"}
    assert split_metadata({"caption": ["a", "b"], "label": True}, "caption", "label") == (
        None, None, '{"caption": ["a", "b"], "label": true}',
    )  # fmt: skip
    assert split_metadata({"label": 2**63}, "caption", "label")[1] is None
    half = split_metadata({"caption": "\ud83d!"}, "caption", "label")[0]
    assert half == "\\ud83d!"
