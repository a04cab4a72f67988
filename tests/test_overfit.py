"""The network and the trainer can learn at all: eight photographs by heart."""

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from train.config import load_preset
from train.loop import train
from train.report import read_metrics

PHOTOS = (
    "astronaut", "chelsea", "coffee", "rocket", "retina", "hubble_deep_field", "immunohistochemistry", "stereo_motorcycle"
)  # fmt: skip


def test_eight_photos_are_learnt_by_heart(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in PHOTOS:
        image = getattr(skimage.data, name)()
        image = np.asarray(image[0] if isinstance(image, tuple) else image)
        Image.fromarray(image).resize((32, 32), Image.Resampling.LANCZOS).save(photos / f"{name}.png")
    config = load_preset(
        "tiny", "--out", str(tmp_path / "run"), "--steps", "300", "--batch_size", "8",
        "--data.source", str(photos), "--data.crop", "32", "--data.flip", "false", "--data.workers", "0",
        "--loss.weights", "{l1: 1.0, kl: 1.0e-8}", "--optimizer.lr", "1e-3", "--optimizer.betas", "[0.9, 0.99]",
        "--optimizer.warmup", "20", "--ema_decay", "0.98",
        "--validation.source", str(photos), "--validation.size", "32", "--validation.metrics", "[psnr]",
        "--validation.every", "1000", "--checkpoint_every", "1000",
    )  # fmt: skip
    psnr = read_metrics(train(config), "validation")["psnr"]
    assert psnr[0] < 15
    assert psnr[-1] > 30
