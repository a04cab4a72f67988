"""The codec that comes with the package: found by default, as good as its card says, small enough to install."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from safetensors import safe_open

from eval.metrics import ms_ssim, psnr
from eval.showcase import main as showcase
from eval.showcase import row
from latentcodec.bitstream.codec import ImageCodec
from latentcodec.codec import LatentCodec
from latentcodec.images.geometry import center_crop
from latentcodec.vae.loading import load_vae
from latentcodec.vae.sources import DEFAULT, PRETRAINED, shipped_names

CHANNELS = {"f8d16": 16, "f8d4": 4}
"""Of all that is shipped."""


def photo(name: str) -> np.ndarray:
    """A public-domain photograph that the weights were not trained on."""
    return center_crop(getattr(skimage.data, name)(), 256, 256)


@pytest.fixture(scope="module", params=CHANNELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def codec(name: str) -> LatentCodec:
    return LatentCodec.from_pretrained(name, dtype=torch.float32)


def test_one_is_the_default() -> None:
    assert set(shipped_names()) == set(CHANNELS)
    assert LatentCodec.from_pretrained().fingerprint == LatentCodec.from_pretrained(DEFAULT).fingerprint


def test_each_has_a_card_and_tables(name: str, codec: LatentCodec) -> None:
    assert codec.vae.config.latent_channels == CHANNELS[name]
    card = (PRETRAINED / name / "README.md").read_text("utf-8")
    assert codec.fingerprint in card
    assert all(heading in card for heading in ("## Data", "## Licence", "## Recipe", "## Reconstruction", "## Latents"))
    assert json.loads((PRETRAINED / name / "bitstream.json").read_text())["vae_fingerprint"] == codec.fingerprint


def test_weights_are_small_and_half_precise(name: str) -> None:
    sizes = {path.name: path.stat().st_size for path in (PRETRAINED / name).iterdir()}
    assert max(sizes.values()) < 20e6
    package = sum(
        path.stat().st_size for path in PRETRAINED.parents[1].rglob("*") if path.suffix != ".pyc" and path.is_file()
    )
    assert package < 60e6
    with safe_open(PRETRAINED / name / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118
    parameters = sum(parameter.numel() for parameter in load_vae(name).parameters())
    assert parameters < 83.65e6 / 4  # SD 1.x's


@pytest.mark.parametrize(("picture", "least"), [("astronaut", 25.0), ("chelsea", 28.0), ("coffee", 26.0)])
def test_photographs_come_back(name: str, codec: LatentCodec, picture: str, least: float) -> None:
    """Four channels hold a quarter of the numbers, and give about 3 dB less."""
    image = photo(picture)
    again = codec.reconstruct(image).to_uint8()[0]
    assert psnr(image, again) > (least if name == DEFAULT else least - 3.5)
    assert ms_ssim(image, again) > (0.95 if name == DEFAULT else 0.88)
    colour = image.reshape(-1, 3).mean(0) - again.reshape(-1, 3).mean(0)
    assert np.abs(colour).max() < 3  # levels: no tint


def test_latents_are_scaled_for_a_diffusion_model(codec: LatentCodec) -> None:
    latents = torch.stack([codec.encode(photo(name)).tensors[0] for name in ("astronaut", "chelsea", "coffee")])
    assert 0.6 < float(latents.std()) < 1.5
    assert abs(float(latents.mean())) < 0.3


def test_no_grid_of_squares(codec: LatentCodec) -> None:
    """Errors are no larger across the borders of 8 x 8 blocks than inside them."""
    image = photo("chelsea")
    error = codec.reconstruct(image).to_uint8()[0].astype(float) - image
    steps = np.abs(np.diff(error, axis=1)).mean(axis=(0, 2))
    borders = steps[7::8].mean()
    inside = np.delete(steps, np.s_[7::8]).mean()
    assert borders < 1.15 * inside


def test_photographs_become_few_bytes(name: str) -> None:
    images = ImageCodec.from_pretrained(name)
    image = photo("coffee")
    small, large = (images.compress(image, quality=quality) for quality in (20.0, 80.0))
    assert len(small.data) < len(large.data) < image.size / 8
    assert psnr(image, images.decompress(large.data)) > psnr(image, images.decompress(small.data)) > 19


def test_commands_need_nothing_but_the_package(tmp_path: Path) -> None:
    """In a fresh process, in another folder, offline."""
    Image.fromarray(photo("chelsea")).save(tmp_path / "photo.png")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    for command in (["compress", "photo.png", "-o", "out"], ["decompress", "out/photo.png.lvc", "-o", "out"]):
        done = subprocess.run(
            [sys.executable, "-m", "latentcodec", *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    (again,) = (tmp_path / "out").glob("*.png")
    assert psnr(photo("chelsea"), np.asarray(Image.open(again))) > 25


def test_showcase_compares_at_equal_bytes(tmp_path: Path) -> None:
    Image.fromarray(photo("coffee")).save(tmp_path / "photo.png")
    showcase([str(tmp_path / "photo.png"), "-o", str(tmp_path / "sheet.png"), "--size", "128", "--bpp", "0.8"])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 132 - 4, 150)
    image = center_crop(photo("coffee"), 128, 128)
    titles = [title for title, _ in row(ImageCodec.from_pretrained(), image, 0.8)]
    ours, jpeg = (int(re.findall(r"([\d,]+) bytes", title)[0].replace(",", "")) for title in titles[2:])
    assert jpeg <= ours <= 0.8 * 128 * 128 / 8
