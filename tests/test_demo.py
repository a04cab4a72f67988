"""The demo, from photographs to an export in a fresh process, with a few steps of training."""

import json
from pathlib import Path

import numpy as np
import pytest
from diffusers import AutoencoderKL
from PIL import Image

from train.demo import HELD_OUT_PHOTOS, TRAINING_PHOTOS, run_demo


def test_the_demo_leaves_what_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))  # no LPIPS backbone in torch's cache
    monkeypatch.delenv("LATENTCODEC_LPIPS_VGG", raising=False)
    out = tmp_path / "demo"
    (out / "old").mkdir(parents=True)
    summary = run_demo(out, "--steps", "3", "--data.workers", "0", "--validation.size", "64", "--log_every", "1")

    assert not (out / "old").exists(), "what an earlier demo left is removed first"
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["perceptual"] == "ms_ssim"
    assert "multi-scale SSIM" in capsys.readouterr().out
    assert {"psnr_before", "psnr_after", "seconds", "versions"} <= summary.keys()
    assert summary["steps"] == 3
    assert isinstance(AutoencoderKL.from_pretrained(out / "export"), AutoencoderKL)
    elsewhere = summary["in_a_fresh_process"]
    assert isinstance(elsewhere, dict)
    assert elsewhere["keys_that_do_not_fit"] == 0
    page = (out / "report.html").read_text("utf-8")
    assert all(text in page for text in ("What the demo has trained", "held-out", "untrained", *HELD_OUT_PHOTOS))
    assert (out / "report" / "latents.txt").read_text().split()[:2] == ["trained", "untrained"]
    for name in ("reconstructions.png", "through_pipeline.png"):
        picture = np.asarray(Image.open(out / name))
        assert picture.std() > 5, f"{name} shows nothing"


def test_held_out_photographs_are_not_trained_on() -> None:
    assert not set(HELD_OUT_PHOTOS) & set(TRAINING_PHOTOS)
