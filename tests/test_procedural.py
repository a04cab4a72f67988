"""Synthetic images: the same everywhere, and varied."""

import hashlib
import json
import math
import pickle
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from latentcodec.images.items import SourceError
from latentcodec.images.procedural import LENGTH, ProceduralSource, open_procedural
from latentcodec.images.procedural_random import Draws
from latentcodec.images.procedural_shapes import power_law_radii
from latentcodec.images.procedural_textures import noise_fields

EXPECTED = Path(__file__).parent / "expected" / "procedural.json"


def digest(index: int, seed: int = 0, size: int = 256) -> str:
    return hashlib.sha256(ProceduralSource(seed, size=size)[index].data.tobytes()).hexdigest()


def test_golden_images() -> None:
    """Bit for bit: only raw Philox numbers and exactly rounded arithmetic go into them.

    To renew after a wanted change: `python -m tests.test_procedural` from the repository's root.
    """
    assert [digest(index) for index in range(4)] == json.loads(EXPECTED.read_text())["sha256 of images 0..3 of seed 0"]


def test_an_item_is_a_pure_function_of_seed_and_index() -> None:
    source = ProceduralSource(5, size=64)
    forwards = [source[index].data for index in range(8)]
    again = pickle.loads(pickle.dumps(source))
    for index in reversed(range(8)):
        np.testing.assert_array_equal(again[index].data, forwards[index])
    assert len({digest(index, seed, 64) for index in range(8) for seed in (0, 1, 2**64 - 1)}) == 24


def test_another_process_makes_the_same_image() -> None:
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(digest, (3,)) == digest(3)


def test_items_and_length() -> None:
    source = open_procedural("7", size=48)
    item = source[2]
    assert item.id == "procedural:7/2"
    assert item.metadata == {"seed": 7, "index": 2}
    assert item.decode(draft_size=8).shape == (48, 48, 3)
    assert item.decode().dtype == np.uint8
    assert len(source) == LENGTH == 2**31 - 1
    assert source[-1].id == f"procedural:7/{LENGTH - 1}"
    with pytest.raises(IndexError, match=r"index: expected"):
        source[LENGTH]
    assert open_procedural().seed == 0


@pytest.mark.parametrize("size", [16, 17, 100, 300])
def test_any_size(size: int) -> None:
    for index in range(4):
        assert ProceduralSource(size=size)[index].data.shape == (size, size, 3)


@pytest.mark.parametrize(("seed", "size"), [("x", 64), ("-1", 64), (str(2**64), 64), ("0", 8), ("0", 10_000)])
def test_arguments_out_of_range(seed: str, size: int) -> None:
    with pytest.raises(SourceError, match=r"procedural.*expected"):
        open_procedural(seed, size=size)


def test_radii_follow_the_power_law() -> None:
    """P(R > r) for density r^-3 between a and b is (r^-2 - b^-2) / (a^-2 - b^-2)."""
    radii = power_law_radii(Draws(0, 1), 40_000, 2.0, 50.0)
    assert 2.0 <= radii.min() < radii.max() <= 50.001
    for r in (2.5, 4, 8, 16):
        expected = (r**-2 - 50**-2) / (2**-2 - 50**-2)
        assert (radii > r).mean() == pytest.approx(expected, abs=4 * math.sqrt(expected / 40_000))


def test_directions_are_unit_vectors_all_around() -> None:
    x, y = Draws(0, 2).directions(4000)
    assert np.abs(x * x + y * y - 1).max() < 1e-6
    quadrants = [((x > 0) == right) & ((y > 0) == up) for right in (0, 1) for up in (0, 1)]
    assert all(0.2 < quadrant.mean() < 0.3 for quadrant in quadrants)


def test_noise_fields_go_from_grain_to_haze() -> None:
    fields = noise_fields(Draws(0, 3))
    assert fields.min() == 0
    assert fields.max() == 1
    step = np.abs(fields - np.roll(fields, 1, axis=2)).mean(axis=(1, 2)) / fields.std(axis=(1, 2))
    assert step[0] > 2 * step[1] > 4 * step[2]  # including the step over the seam: they tile
    seam = np.abs(fields[2, :, 0] - fields[2, :, -1]).mean()
    assert seam < 3 * np.abs(np.diff(fields[2], axis=1)).mean()


def test_images_are_varied_and_use_the_range() -> None:
    """Smooth areas, texture and sharp edges; dark and bright; as photographs, most gradients small and a few large."""
    images = np.stack([ProceduralSource(0, size=128)[index].data for index in range(48)]).astype(np.float32)
    means, gradients = images.mean(axis=(1, 2, 3)), np.abs(np.diff(images.mean(axis=3), axis=2))
    assert means.min() < 60
    assert means.max() > 150
    assert means.std() > 25
    roughness = gradients.mean(axis=(1, 2))
    assert roughness.max() > 5 * roughness.min()
    assert 0.3 < (gradients < 3).mean() < 0.9
    assert 0.02 < (gradients > 40).mean() < 0.25
    kurtosis = ((gradients**4).mean()) / (gradients**2).mean() ** 2
    assert kurtosis > 6  # heavy tails; 3 would be Gaussian noise


if __name__ == "__main__":
    EXPECTED.parent.mkdir(exist_ok=True)
    content = {"sha256 of images 0..3 of seed 0": [digest(index) for index in range(4)]}
    EXPECTED.write_text(json.dumps(content, indent=2) + "\n")
