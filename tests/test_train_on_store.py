"""From images to a diffusion model as a user would: `precompute`, then the example, and the example once more."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from store_helpers import small_vae
from warm_process import SPAWNER

from latentcodec.cli import main
from latentcodec.vae.loading import save_vae

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "train_on_store.py"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Twelve images of three classes in two shapes, encoded by a network with random weights."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(12):
        shape = (48, 64, 3) if number % 2 else (64, 48, 3)
        pixels = np.random.default_rng(number).integers(0, 255, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number:02d}.png")
        (photos / f"{number:02d}.cls").write_text(str(number % 3))
    save_vae(small_vae(), tmp_path / "vae")
    command = [
        "precompute", str(photos), str(tmp_path / "store"), "--vae", str(tmp_path / "vae"), "--size", "56", "--flip",
        "--resolution", "buckets", "--bucket-step", "16", "--workers", "0", "--device", "cpu",
    ]  # fmt: skip
    assert main(command) == 0
    return tmp_path / "store"


def run_example(arguments: list[str], output: str) -> None:
    torch.set_num_threads(1)
    sys.argv = [str(EXAMPLE), *arguments]
    with open(output, "w") as file:
        sys.stdout = file
        runpy.run_path(str(EXAMPLE), run_name="__main__")


def run(store: Path, steps: int) -> str:
    arguments = [str(store), "--vae", str(store.parent / "vae"), "--out", str(store.parent / "out")]
    arguments += ["--steps", str(steps), "--batch_size", "2", "--width", "16", "--classes", "3", "--workers", "1"]
    output = store.parent / "output"
    process = SPAWNER.Process(target=run_example, args=(arguments, str(output)))
    process.start()
    process.join(timeout=300)
    assert process.exitcode == 0
    return output.read_text()


def test_the_example_trains_and_goes_on(store: Path) -> None:
    assert "step 2, loss" in run(store, 2)
    out = store.parent / "out"
    assert {path.name for path in out.iterdir()} == {"state", "step.txt", "unet", "sample-0.png", "sample-1.png"}
    first = torch.cat([tensor.flatten() for tensor in weights(out).values()])
    told = run(store, 4)
    assert "going on at step 2, 2 batches into the epoch" in told
    assert "step 4, loss" in told
    second = torch.cat([tensor.flatten() for tensor in weights(out).values()])
    assert torch.isfinite(second).all()
    assert not torch.equal(first, second)
    with Image.open(out / "sample-0.png") as picture:
        assert picture.size in {(48, 64), (64, 48)}


def weights(out: Path) -> dict[str, torch.Tensor]:
    from diffusers import UNet2DModel

    return UNet2DModel.from_pretrained(out / "unet").state_dict()
