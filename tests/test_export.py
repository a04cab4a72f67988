"""An export is the averaged network, with a measured scale, in a folder that diffusers reads alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

from eval.metrics import psnr
from eval.reconstruct.modes import reconstruct
from latentcodec.images.pixels import to_tensor
from latentcodec.vae.fingerprint import weights_fingerprint
from latentcodec.vae.loading import load_vae, save_vae
from latentcodec.vae.presets import build_vae
from train.config import TrainConfig, load_preset
from train.export import calibration_images, export_run
from train.loop import train
from train.state import CheckpointError, newest_checkpoint, read_record
from train.validation import Validation
from train.warm_start import initial_vae, keep_what_fits, load_run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(6):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((320, 280), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def tiny_run(out: Path, photos: Path, *overrides: str) -> TrainConfig:
    config = load_preset(
        "tiny", "--model.preset", "tiny-f8d4", "--out", str(out), "--steps", "4", "--batch_size", "4",
        "--data.source", str(photos), "--data.crop", "32", "--data.workers", "0", "--loss.weights", "{l1: 1.0, kl: 1.0e-6}",
        "--optimizer.warmup", "1", "--validation.source", str(photos), "--validation.images", "3",
        "--validation.size", "64", *overrides,
    )  # fmt: skip
    train(config)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> TrainConfig:
    return tiny_run(tmp_path_factory.mktemp("run"), photos)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory, run: TrainConfig) -> Path:
    return export_run(
        Path(run.out), tmp_path_factory.mktemp("export") / "vae", variants=("fp16", "bf16"), calibration=6
    )


def test_loads_in_plain_diffusers_and_equals_the_ema_to_the_bit(run: TrainConfig, export: Path) -> None:
    vae, loading = AutoencoderKL.from_pretrained(export, output_loading_info=True)
    assert not any(loading.values())
    checkpoint = newest_checkpoint(Path(run.out) / "checkpoints")
    assert checkpoint is not None
    average = AutoencoderKL.from_config(read_record(checkpoint)["vae_config"]).eval()
    average.load_state_dict(safetensors.torch.load_file(checkpoint / "ema.safetensors"))
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        ours, theirs = (network.encode(images).latent_dist for network in (average, vae))
        assert torch.equal(ours.mean, theirs.mean)
        assert torch.equal(ours.logvar, theirs.logvar)
        assert torch.equal(average.decode(ours.mean).sample, vae.decode(ours.mean).sample)


def test_scaled_latents_have_unit_deviation_on_the_calibration_images(run: TrainConfig, export: Path) -> None:
    vae = AutoencoderKL.from_pretrained(export)
    images = torch.stack([to_tensor(image) for image in calibration_images(run, 6)])
    assert images.shape == (6, 3, 256, 256)
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.sample(torch.Generator().manual_seed(1)) * vae.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, abs=0.02)


def test_variants_hold_rounded_weights(export: Path) -> None:
    exact = load_vae(export)
    for variant, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        rounded = load_vae(export, variant=variant)
        for name, value in exact.state_dict().items():
            assert torch.equal(rounded.state_dict()[name], value.to(dtype).float())
    card = (export / "README.md").read_text()
    assert "| fp16 |" in card
    assert "| bf16 |" in card


def test_single_file_is_the_same_vae(export: Path) -> None:
    single = load_vae(export / "ldm.safetensors")
    folder = load_vae(export)
    assert weights_fingerprint(single) == weights_fingerprint(folder)
    assert single.config.scaling_factor == pytest.approx(folder.config.scaling_factor)


def test_card_states_what_was_measured(export: Path) -> None:
    card = (export / "README.md").read_text()
    rows = [json.loads(line) for line in (export / "validation.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert f"{np.mean([row['psnr'] for row in rows]):.4f}" in card
    assert weights_fingerprint(load_vae(export)) in card
    assert (export / "reconstructions.png").exists()
    assert json.loads((export / "calibration.json").read_text())["images"] == 6


def test_half_weights_are_what_was_measured_and_no_folder_is_told(run: TrainConfig, tmp_path: Path) -> None:
    about = {"about": "## Data\n\nOurs.", "pictures": False}
    folder = export_run(Path(run.out), tmp_path / "half", calibration=6, half=True, ldm=False, **about)
    assert not (folder / "reconstructions.png").exists()
    stored = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    card = (folder / "README.md").read_text()
    assert weights_fingerprint(load_vae(folder)) in card
    assert "## Data\n\nOurs." in card
    assert "reconstructions.png" not in card
    assert str(Path(run.out).parent) not in card
    row = json.loads((folder / "validation.jsonl").read_text().splitlines()[0])
    image = Validation(run, Accelerator(cpu=True)).images[row["id"]]
    assert row["psnr"] == pytest.approx(psnr(image, reconstruct(load_vae(folder), image)), abs=1e-6)


def test_export_replaces_an_export_and_nothing_else(run: TrainConfig, export: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="found other files"):
        export_run(Path(run.out), tmp_path)
    export_run(Path(run.out), export, variants=("fp16", "bf16"), calibration=6)
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        export_run(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("start", ["export", "run"])
def test_decoder_only_keeps_encoder_and_scaling(
    start: str, run: TrainConfig, export: Path, photos: Path, tmp_path: Path
) -> None:
    """That of the export it starts from; a run has none yet, and it is measured."""
    source = {"export": str(export), "run": run.out}[start]
    tuned = tiny_run(tmp_path / "ft", photos, "--model.init_from", source, "--model.train", "decoder")
    after = load_vae(export_run(Path(tuned.out), tmp_path / "vae", calibration=6)).state_dict()
    before = load_vae(export).state_dict()
    for name, value in before.items():
        latent_side = name.startswith(("encoder.", "quant_conv."))
        assert torch.equal(value, after[name]) == latent_side, name
    scales = [
        json.loads((folder / "config.json").read_text())["scaling_factor"] for folder in (export, tmp_path / "vae")
    ]
    assert scales[0] == pytest.approx(scales[1], rel=1e-6) != 1
    assert ("its latents are unchanged" in (tmp_path / "vae" / "README.md").read_text()) == (start == "export")


def test_warm_start_across_channels_keeps_what_fits(tmp_path: Path) -> None:
    source = build_vae("tiny-f8d4")
    save_vae(source, tmp_path / "source")
    config = load_preset("tiny", "--model.init_from", str(tmp_path / "source"), "--model.latent_channels", "16").model
    target, notes = initial_vae(config)
    assert target.config.latent_channels == 16
    kept, fresh = keep_what_fits(source, target)
    assert set(fresh) == {
        "encoder.conv_out.weight", "encoder.conv_out.bias", "decoder.conv_in.weight", "quant_conv.weight",
        "quant_conv.bias", "post_quant_conv.weight", "post_quant_conv.bias",
    }  # fmt: skip
    assert all(name in notes[1] for name in fresh)
    assert all(torch.equal(source.state_dict()[name], target.state_dict()[name]) for name in kept)
    assert len(kept) == len(source.state_dict()) - 7
    # The fresh posterior starts narrow, as that of a random network does; its noise would drown the new latents.
    assert target.encode(torch.rand(1, 3, 64, 64) * 2 - 1).latent_dist.logvar.mean().item() == pytest.approx(-6, abs=1)


def test_a_run_can_start_from_a_run(run: TrainConfig) -> None:
    config = load_preset("tiny", "--model.init_from", run.out).model
    assert weights_fingerprint(initial_vae(config)[0]) == weights_fingerprint(load_run(Path(run.out)))


def test_command_line(run: TrainConfig, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "train",
        "export",
        run.out,
        str(tmp_path / "vae"),
        "--calibration",
        "2",
        "--ldm",
        "false",
    ]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert finished.returncode == 0, finished.stderr
    assert {path.name for path in (tmp_path / "vae").iterdir()} >= {"config.json", "README.md"}
    command[4] = str(tmp_path / "no-run")
    finished = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert finished.returncode == 1
    assert "no whole checkpoint" in finished.stderr
    assert "Traceback" not in finished.stderr
