"""What `eval tiling` measures: seams that are planted are found, and exact tiles have none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.__main__ import main
from eval.images import ImageSet
from eval.tiling import SHIFT, border_step, mosaic, tile_shift
from latentcodec.vae.loading import save_vae
from latentcodec.vae.presets import build_vae


def test_a_patchwork_is_found() -> None:
    torch.manual_seed(0)
    noise = torch.randn(3, 128, 128)
    levels = torch.randn(3, 4, 4)
    patches = levels.repeat_interleave(32, 1).repeat_interleave(32, 2)
    assert tile_shift(noise, 32) < 0.1
    expected = torch.cat([levels.diff(dim=1).flatten(), levels.diff(dim=2).flatten()]).square().mean().sqrt()
    assert tile_shift(patches, 32) == pytest.approx(expected.item(), rel=1e-5)
    assert border_step(noise, 32) == pytest.approx(0, abs=0.1)
    steps = torch.cat([levels.diff(dim=1).abs().mean((0, 2)), levels.diff(dim=2).abs().mean((0, 1))]).mean()
    assert border_step(patches, 32) == pytest.approx(steps.item(), rel=1e-5)
    assert border_step(torch.ones(3, 64, 64), 32) == 0.0
    assert border_step(noise, 128) == 0.0
    assert tile_shift(noise, 128) == 0.0


def test_a_mosaic_covers_everything_with_the_images() -> None:
    images = ImageSet("procedural:0", limit=3)
    found = np.roll(mosaic(images, 600), (-SHIFT[0], -SHIFT[1]), axis=(0, 1))
    first, second, third = (image.pixels for image in images)
    np.testing.assert_array_equal(found[:256, :256], first)
    np.testing.assert_array_equal(found[:256, 256:512], second)
    np.testing.assert_array_equal(found[:256, 512:600], third[:, :88])
    np.testing.assert_array_equal(found[256:512, :256], first)
    assert (found.std(axis=(0, 1)) > 0).all()


def test_exact_tiles_have_no_seam_and_diffusers_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    save_vae(build_vae("tiny-f8d4", block_out_channels=(4, 4, 8, 8), norm_num_groups=2).eval(), tmp_path / "vae")
    out = tmp_path / "tiling.json"
    options = ["--data", "procedural:0", "--images", "4", "--side", "1024", "--budget_mib", "1", "--json", str(out)]
    assert main(["tiling", str(tmp_path / "vae"), *options]) == 0
    assert "border" in capsys.readouterr().out
    exact, fast, diffusers = json.loads(out.read_text())["rows"]
    assert exact["picture_max"] < 0.1
    assert fast["tile_shift"] < diffusers["tile_shift"]
    assert exact["picture_rms"] < fast["picture_rms"]
    assert "GroupNorms" in fast["method"]
    assert str(tmp_path) not in out.read_text()
