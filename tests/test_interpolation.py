"""Ways between latents: ends, lengths and evenness; directions of attributes; the command and its files."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from store_helpers import small_codec, small_vae
from torch import Tensor

from eval.metrics import make_metrics
from latentcodec.cli import main
from latentcodec.codec import LatentCodec
from latentcodec.directions import direction, move
from latentcodec.images.decode import decode_image
from latentcodec.images.geometry import resize
from latentcodec.interpolation import METHODS, fit, interpolate, lerp, slerp
from latentcodec.latents import Latents
from latentcodec.vae.loading import save_vae


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or (4, 6, 8), generator=torch.Generator().manual_seed(seed))


def picture(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return resize(coarse, height, width)


def latents(*tensors: Tensor) -> Latents:
    return Latents(tensors, tuple((8 * t.shape[1], 8 * t.shape[2]) for t in tensors), ("whole",) * len(tensors))


# ---- between two points


@given(st.floats(0, 1), st.floats(0.2, 5), st.floats(0.2, 5), st.integers(0, 100))
def test_slerp_turns_and_scales_evenly(t: float, long: float, other: float, seed: int) -> None:
    """Of two orthogonal vectors: the angle from the first is t of a right angle in the plane they span."""
    start, end = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    place = seed % 32
    start.flatten()[place], end.flatten()[(place + 7) % 32] = long, other
    found = slerp(start, end, t).flatten()
    expected = torch.zeros(32)
    expected[place], expected[(place + 7) % 32] = long * np.cos(t * np.pi / 2), other * np.sin(t * np.pi / 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_slerp_keeps_the_norm_that_lerp_loses() -> None:
    start, end = noise(1), noise(2)
    end = end * (start.norm() / end.norm())
    assert float(slerp(start, end, 0.5).norm()) == pytest.approx(float(start.norm()), rel=1e-5)
    assert lerp(start, end, 0.5).norm() < 0.8 * start.norm()


@pytest.mark.parametrize("end", [torch.zeros(4, 6, 8), 2 * noise(1), -noise(1)], ids=["zero", "parallel", "opposite"])
def test_slerp_where_there_is_no_arc_is_the_straight_line(end: Tensor) -> None:
    torch.testing.assert_close(slerp(noise(1), end, 0.3), lerp(noise(1), end, 0.3))


# ---- between two images


@pytest.mark.parametrize("method", METHODS)
def test_ends_are_the_two_reconstructions_to_the_bit(method: str) -> None:
    codec, start, end = small_codec(), picture(1), picture(2)
    path = interpolate(codec, start, end, frames=5, method=method)
    assert len(path) == 5
    expected = codec.reconstruct([start, end])
    assert torch.equal(path.tensors[0], expected.tensors[0])
    assert torch.equal(path.tensors[-1], expected.tensors[1])
    steps = [float((b - a).abs().mean()) for a, b in zip(path.tensors, path.tensors[1:], strict=False)]
    assert max(steps) < 3 * min(steps)
    assert {tuple(tensor.shape) for tensor in path.tensors} == {(3, 40, 56)}


def test_steps_are_even_by_the_distance_that_is_given() -> None:
    codec, start, end = small_codec(), picture(1), picture(2)

    def uneven(one: np.ndarray, other: np.ndarray) -> float:
        """Counts a change where the first image has already changed much three times."""
        gone = np.abs(one.astype(float) - first).mean()
        return float(np.abs(one.astype(float) - other).mean()) * (1 + 2 * (gone > far))

    plain = interpolate(codec, start, end, frames=7).to_uint8()
    first, far = plain[0].astype(float), np.abs(plain[3].astype(float) - plain[0]).mean()
    paced = interpolate(codec, start, end, frames=7, distance=uneven).to_uint8()
    assert np.array_equal(paced[0], plain[0])
    assert np.array_equal(paced[-1], plain[-1])
    before, after = ([uneven(a, b) for a, b in pairwise(way)] for way in (plain, paced))
    assert max(before) > 2 * min(before)
    assert max(after) < 1.6 * min(after)


@pytest.mark.shared
def test_ways_between_photographs_are_even_in_lpips(shared: Path) -> None:
    codec = LatentCodec.from_pretrained()
    metric = make_metrics(["lpips_alex"], backbones={"alex": shared / "weights" / "alexnet_features.safetensors"})[
        "lpips_alex"
    ]
    for one, other in ((8, 20), (7, 15)):  # of those tried, the two whose ways are least even in latents
        start, end = (
            fit(decode_image(shared / "photos" / "kodak" / f"kodim{number:02d}.png"), 128, 128)
            for number in (one, other)
        )
        way = interpolate(codec, start, end, frames=6, distance=metric).to_uint8()
        steps = [metric(a, b) for a, b in pairwise(way)]
        assert max(steps) < 3 * min(steps)


def test_what_cannot_be_crossed_is_refused() -> None:
    codec = small_codec()
    with pytest.raises(ValueError, match=r"end: expected an image of \(40, 56\).*found \(40, 40\); use fit"):
        interpolate(codec, picture(1), picture(2, 40, 40))
    with pytest.raises(ValueError, match="frames: expected at least 2, found 1"):
        interpolate(codec, picture(1), picture(2), frames=1)
    with pytest.raises(ValueError, match="method: expected one of linear, spherical; found 'cubic'"):
        interpolate(codec, picture(1), picture(2), method="cubic")


@given(*[st.integers(1, 60)] * 4)
def test_fit_fills_any_size_without_distortion(height: int, width: int, wanted_height: int, wanted_width: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = 255
    assert fit(image, wanted_height, wanted_width).shape == (wanted_height, wanted_width, 3)
    assert np.array_equal(fit(image, height, width), image)


# ---- directions


def test_direction_is_the_difference_of_means_and_moving_adds_it() -> None:
    one, other = [noise(1), noise(2, 4, 3, 3)], [noise(3), noise(4)]
    found = direction([latents(one[0]), latents(one[1])], [latents(*other)])
    expected = torch.stack([t.mean(dim=(1, 2)) for t in other]).mean(0) - torch.stack(
        [t.mean(dim=(1, 2)) for t in one]
    ).mean(0)
    torch.testing.assert_close(found.flatten(), expected)
    moved = move(latents(one[0]), found, strength=-0.5)
    torch.testing.assert_close(moved.tensors[0], one[0] - 0.5 * found)
    spatial = direction([latents(one[0])], [latents(other[0])], spatial=True)
    torch.testing.assert_close(move(latents(one[0]), spatial).tensors[0], other[0])


def test_brightness_is_a_direction_that_brightens_other_images() -> None:
    """With latents that are mean colours of blocks, what is added to them is added to the picture."""

    def encode(image: np.ndarray) -> Latents:
        return latents(torch.nn.functional.avg_pool2d(torch.from_numpy(image).permute(2, 0, 1).float(), 8))

    dark, bright = ([encode(picture(s) // 4 + level) for s in range(4)] for level in (20, 170))
    brighter = direction(dark, bright)
    torch.testing.assert_close(brighter.flatten(), torch.full((3,), 150.0))
    held_out = encode(picture(9) // 4 + 20)
    torch.testing.assert_close(move(held_out, brighter, 0.5).tensors[0], held_out.tensors[0] + 75)


def test_directions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected those of at least one image"):
        direction([], [latents(noise(1))])
    with pytest.raises(ValueError, match=r"expected \[4, 6, 8\] as before, found \[4, 3, 3\]; resize"):
        direction([latents(noise(1), noise(2, 4, 3, 3))], [latents(noise(1))], spatial=True)
    with pytest.raises(ValueError, match=r"expected \[4, 1, 1\] or \[4, 6, 8\] for latents\[0\], found \[8, 1, 1\]"):
        move(latents(noise(1)), torch.zeros(8, 1, 1))


# ---- the command


@pytest.fixture
def files(tmp_path: Path) -> Path:
    save_vae(small_vae(), tmp_path / "vae")
    Image.fromarray(picture(1)).save(tmp_path / "a.png")
    Image.fromarray(picture(2, 48, 48)).save(tmp_path / "b.png")
    return tmp_path


@pytest.mark.parametrize("name", ["strip.png", "strip.jpg", "way.gif", "way.webp", "folder"])
def test_the_command_writes_what_the_name_says(files: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "interpolate",
        str(files / "a.png"),
        str(files / "b.png"),
        "-o",
        str(files / name),
        "--vae",
        str(files / "vae"),
    ]
    assert main([*command, "--frames", "4", "--back", "--dtype", "float32", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pictures"], told["size"], told["end_resized"]) == (6, [40, 56], True)
    if name == "folder":
        shown = [np.asarray(Image.open(path)) for path in sorted((files / name).iterdir())]
        assert len(shown) == 6
        assert np.array_equal(shown[0], small_codec().reconstruct([picture(1)]).to_uint8()[0])
        assert np.array_equal(shown[1], shown[5])
    else:
        with Image.open(files / name) as image:
            frames = getattr(image, "n_frames", 1)
            assert (frames, image.size) == ((1, (6 * 56, 40)) if "strip" in name else (6, (56, 40)))


def test_wrong_names_and_numbers_are_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["interpolate", str(files / "a.png"), str(files / "b.png"), "--vae", str(files / "vae")]
    assert main([*command, "-o", str(files / "strip.bmp")]) == 1
    assert "expected a name that ends in .png" in capsys.readouterr().err
    assert main([*command, "-o", str(files / "s.png"), "--frames", "1"]) == 1
    assert "--frames: expected at least 2, found 1" in capsys.readouterr().err
    assert main(["interpolate", str(files / "none.png"), *command[2:], "-o", str(files / "s.png")]) == 1
