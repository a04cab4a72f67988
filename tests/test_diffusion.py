"""A diffusion model on a latent store: the loss and its figures, training, resume, two processes, the pipeline."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline
from PIL import Image
from store_helpers import encode, small_codec, small_vae

from eval.pairing import Spread
from eval.speed.sides import Comparison
from latentcodec.codec import LatentCodec
from latentcodec.store.errors import StoreMismatchError
from latentcodec.store.preprocessing import Crop, Native, Preprocessing
from latentcodec.vae.loading import save_vae
from train.diffusion import benchmark
from train.diffusion.config import DiffusionConfig, load_diffusion_preset
from train.diffusion.data import draw, labels_of, open_store
from train.diffusion.denoising import DenoisingSide, Draws, pointwise_error, unexplained_errors
from train.diffusion.job import train_diffusion
from train.diffusion.model import NO_CLASS, build_transformer, noise_schedule
from train.diffusion.proxy import main as proxy
from train.health import Meter
from train.report import read_metrics
from train.run_config import ConfigError
from train.state import read_record
from train.warm_start import shift_logvar

PRESETS = sorted(path.stem for path in Path("train/diffusion/presets").glob("*.yaml"))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth images of two classes, dark and bright, as latents of 8 x 8; and the VAE."""
    folder = tmp_path_factory.mktemp("diffusion")
    vae = small_vae()
    vae.register_to_config(scaling_factor=1.0)
    shift_logvar(vae, -12.0)  # a random network's posterior would drown its means
    crop = Preprocessing(Crop(64, 64))
    for role, count in (("train", 48), ("validation", 16)):
        images = folder / f"{role}-images"
        images.mkdir()
        for number in range(count):
            dice = np.random.default_rng([number, count])
            level = 170 if number % 2 else 30
            small = (level + dice.integers(0, 60, (3, 3, 3))).astype(np.uint8)
            Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(images / f"{number:02d}.png")
            (images / f"{number:02d}.cls").write_text(str(number % 2))
    outcome = encode(folder / "train-images", folder / "unscaled", LatentCodec(vae), crop)
    assert outcome.manifest.statistics is not None
    vae.register_to_config(scaling_factor=1 / float(np.mean(outcome.manifest.statistics.std)))
    codec = LatentCodec(vae)
    encode(folder / "train-images", folder / "train", codec, crop, flipped=True)
    encode(folder / "validation-images", folder / "validation", codec, crop)
    save_vae(vae, folder / "vae")
    return folder


def small_config(stores: Path, out: Path, *overrides: str) -> DiffusionConfig:
    return load_diffusion_preset(
        "proxy", "--store.train", str(stores / "train"), "--store.validation", str(stores / "validation"),
        "--store.vae", str(stores / "vae"), "--out", str(out), "--classes", "2", "--steps", "8", "--batch_size", "16",
        "--transformer.layers", "2", "--transformer.heads", "2", "--transformer.head_channels", "16",
        "--mixed_precision", "no", "--validation.every", "1000", "--validation.images", "16", "--validation.pictures", "2",
        "--validation.sampling_steps", "4", "--optimizer.warmup", "2", "--log_every", "4", "--checkpoint_every", "4",
        *overrides,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of eight steps."""
    return train_diffusion(small_config(stores, tmp_path_factory.mktemp("runs") / "run"))


# ---- the loss and what it means


def test_noise_and_velocity_are_those_of_diffusers() -> None:
    schedule, latents = noise_schedule(), torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 200, 700, 999])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    seen: list[torch.Tensor] = []

    class Spy(torch.nn.Module):
        def forward(self, noisy: torch.Tensor, **_: Any) -> Any:
            seen.append(noisy)
            return SimpleNamespace(sample=torch.zeros_like(noisy))

    loss, _ = DenoisingSide(Spy(), schedule, "no")(latents, Draws(timesteps, noise, torch.zeros(4, dtype=torch.int64)))
    torch.testing.assert_close(seen[0], schedule.add_noise(latents, noise, timesteps))
    torch.testing.assert_close(loss, schedule.get_velocity(latents, noise, timesteps).square().mean())
    assert schedule.alphas_cumprod[999] == 0  # ends in pure noise


def test_what_is_left_unexplained_by_the_best_pointwise_estimate() -> None:
    """A stand-in that makes that estimate, on latents without structure, leaves what the formula says."""
    schedule, generator = noise_schedule(), torch.Generator().manual_seed(0)
    deviation = torch.tensor([0.3, 1.0, 3.0])[:, None, None]
    latents = deviation * torch.randn(64, 3, 16, 16, generator=generator)

    class Pointwise(torch.nn.Module):
        def forward(self, noisy: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> Any:
            share = schedule.alphas_cumprod[timestep][:, None, None, None]
            signal, noise = share.sqrt(), (1 - share).sqrt()
            estimate = noisy * signal * deviation**2 / (share * deviation**2 + 1 - share)
            return SimpleNamespace(sample=(signal * noisy - estimate) / noise)

    for timestep in (100, 500, 900):
        draws = Draws(
            torch.full((64,), timestep),
            torch.randn(latents.shape, generator=generator),
            torch.zeros(64, dtype=torch.int64),
        )
        errors, _ = unexplained_errors(Pointwise(), schedule, latents, draws, "no")
        share = float((errors.mean(0) / latents.var(dim=(0, 2, 3))).mean())
        assert share == pytest.approx(pointwise_error(schedule, timestep, deviation.flatten() ** 2), rel=0.03)


def test_a_random_transformer_says_nothing_and_learns_everywhere() -> None:
    torch.manual_seed(0)
    config = load_diffusion_preset("proxy", "--store.train", "x", "--transformer.layers", "1").transformer
    side = DenoisingSide(build_transformer(config, 4, 8), noise_schedule(), "no")
    latents = torch.randn(2, 4, 8, 8)
    draws = Draws(torch.tensor([10, 900]), torch.randn(2, 4, 8, 8), torch.tensor([0, NO_CLASS]))
    for step in range(3):
        loss, _ = side(latents, draws)
        loss.backward()
        if step == 0:
            assert loss.item() == pytest.approx(1.0, rel=0.2)
        with torch.no_grad():
            for parameter in side.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None if step < 2 else parameter.grad
    silent = [name for name, p in side.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert [name for name in silent if "to_k.bias" not in name] == []  # a bias of all keys changes no attention


# ---- data


@pytest.mark.parametrize("name", PRESETS)
def test_presets_parse(name: str) -> None:
    assert load_diffusion_preset(name, "--store.train", "latents").steps > 0


def test_draws_are_functions_of_their_place(stores: Path) -> None:
    config = small_config(stores, Path("unused"))
    batch = open_store(str(stores / "train"), "store.train", None, 2).batch(range(48))

    def at(**place: int) -> Draws:
        return draw(batch, 1000, config, device=torch.device("cpu"), **{"step": 3, "part": 1, **place})

    one, again = at(), at()
    assert all(torch.equal(getattr(one, name), getattr(again, name)) for name in ("timesteps", "noise", "labels"))
    assert not torch.equal(one.noise, at(step=4).noise)
    assert not torch.equal(one.noise, at(part=0).noise)
    withheld = torch.stack([at(step=step).labels == NO_CLASS for step in range(40)]).float().mean()
    assert 0.07 < withheld < 0.13
    kept = one.labels != NO_CLASS
    assert torch.equal(one.labels[kept], labels_of(batch, 2)[kept])
    assert labels_of(batch, 0).tolist() == [NO_CLASS] * 48


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["--store.train", ""], ConfigError, "store.train: no store named"),
        (["--classes", "1"], ConfigError, "classes: expected labels from 0 to 0; found 1 for 01.png; raise classes"),
        (["--transformer.patch", "3"], ConfigError, "a multiple of 3 (transformer.patch); found 8x8"),
        (["--classes", "1001"], ConfigError, "classes: expected 0 to 1000"),
    ],
)
def test_what_cannot_work_is_refused(
    stores: Path, tmp_path: Path, overrides: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        train_diffusion(small_config(stores, tmp_path, *overrides))
    assert message in str(raised.value)


def test_another_vae_is_refused_and_so_are_other_shapes(stores: Path, tmp_path: Path) -> None:
    save_vae(small_vae(seed=2), tmp_path / "other")
    with pytest.raises(StoreMismatchError, match="fingerprint"):
        train_diffusion(small_config(stores, tmp_path / "run", "--store.vae", str(tmp_path / "other")))
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (48, 32)).save(images / "0.png")
    encode(images, tmp_path / "native", small_codec(), Preprocessing(Native()))
    with pytest.raises(ConfigError, match=r"store\.train: expected latents of one square size.*found 4x6"):
        open_store(str(tmp_path / "native"), "store.train", None, 2)


# ---- training


def test_validation_falls_and_structure_is_learnt(stores: Path, tmp_path: Path) -> None:
    run = train_diffusion(
        small_config(stores, tmp_path, "--steps", "200", "--optimizer.lr", "2e-3", "--validation.pictures", "0")
    )
    measured = read_metrics(run, "validation")
    assert measured["step"].tolist() == [0, 200]
    assert measured["velocity"][1] < 0.7 * measured["velocity"][0]
    assert measured["structure"][1] < 0.98  # 1: the best that looks at one value alone
    assert len((run / "validation.jsonl").read_text().splitlines()) == 8  # one for each level of noise


def test_resumed_from_the_middle_the_end_is_the_same_bits(trained: Path, stores: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(trained, again)
    shutil.rmtree(again / "checkpoints" / "step-00000008")
    train_diffusion(small_config(stores, again))
    one, other = (read_record(run / "checkpoints" / "step-00000008") for run in (trained, again))
    assert one["files"] == other["files"]
    assert one["data"] == other["data"]
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (trained, again)]
    assert len(lines[0]) == len(lines[1])


def test_another_config_is_refused(trained: Path, stores: Path) -> None:
    with pytest.raises(ConfigError, match=r"transformer\.heads was 2, now 4"):
        train_diffusion(small_config(stores, trained, "--transformer.heads", "4"))


def _worker(rank: int, processes: int, port: int, stores: str, out: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    train_diffusion(small_config(Path(stores), Path(out), "--validation.pictures", "0", "--optimizer.lr", "1e-4"))


def test_two_processes_are_one_with_accumulation(stores: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_worker, args=(2, port, str(stores), str(tmp_path / "two")), nprocs=2)
    alone = ["--validation.pictures", "0", "--optimizer.lr", "1e-4", "--accumulate", "2"]
    train_diffusion(small_config(stores, tmp_path / "one", *alone))
    one, two = (read_metrics(tmp_path / run, "train") for run in ("one", "two"))
    np.testing.assert_allclose(two["velocity"], one["velocity"], rtol=1e-5)
    np.testing.assert_allclose(two["gradient_norm"], one["gradient_norm"], rtol=1e-4)
    assert read_metrics(tmp_path / "two", "validation")["structure"][-1] == pytest.approx(
        read_metrics(tmp_path / "one", "validation")["structure"][-1], rel=1e-5
    )


# ---- what comes of it


def test_the_pipeline_folder_is_diffusers_own(trained: Path) -> None:
    pipeline = DiTPipeline.from_pretrained(trained / "pipeline")
    assert pipeline.get_label_ids(["1"]) == [1]
    drawn = pipeline([0, 1], num_inference_steps=4, generator=torch.manual_seed(0)).images
    assert [picture.size for picture in drawn] == [(64, 64), (64, 64)]
    sheets = sorted((trained / "pictures").iterdir())
    assert [path.name for path in sheets] == ["step-00000008.png"]
    assert np.asarray(Image.open(sheets[0])).std() > 5


def test_the_proxy_ranks_latents_shuffled_in_space_below(
    stores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [
        "--steps=120", "--batch_size=8", "--transformer.layers=2", "--transformer.heads=2",
        "--transformer.head_channels=16", "--optimizer.lr=2e-3", "--optimizer.warmup=5", "--mixed_precision=no",
        "--validation.images=16", "--validation.every=1000", "--validation.pictures=0",
    ]  # fmt: skip
    arguments = [
        str(stores / "vae"), "--data", str(stores / "train-images"), "--validation", str(stores / "validation-images"),
        "--out", str(tmp_path / "proxy"), "--size", "64", "--seeds", "[0, 1]", "--sanity", "true",
        "--overrides", f"[{','.join(overrides)}]", "--json", str(tmp_path / "proxy.json"),
    ]  # fmt: skip
    proxy(arguments)
    lines = capsys.readouterr().out.splitlines()
    first, second = (line for line in lines if line.startswith("vae"))
    assert "shuffled" not in first
    assert "2 of 2 seeds" in first
    assert "shuffled in space" in second
    assert str(tmp_path) not in (tmp_path / "proxy.json").read_text()


def test_the_cost_of_reading_is_measured_on_the_same_steps(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With both sides in this process, since starting processes is tested elsewhere."""
    seen: list[list[list[str]]] = []

    def compare_here(*sides: Callable[[], Callable[[], int]], **options: Any) -> Comparison:
        for prepare in sides:
            seen.append([])
            step = prepare()
            assert [step() for _ in range(3)] == [16, 16, 16]
        return Comparison(Spread(0.99, 0.98, 1.0, 3), Spread(5.0, 5.0, 5.0, 3), Spread(5.0, 5.0, 5.0, 3), 1, 1)

    def add_loss(meter: Meter, step: int, loss: torch.Tensor, ids: list[str]) -> None:
        seen[-1].append(ids)

    monkeypatch.setattr(benchmark, "compare", compare_here)
    monkeypatch.setattr(Meter, "add_loss", add_loss)
    small = ["--transformer.layers=1", "--transformer.heads=1", "--transformer.head_channels=16", "--batch_size=16"]
    out = tmp_path / "step.json"
    benchmark.main([
        "--store", str(stores / "train"), "--overrides", f"[{','.join([*small, '--mixed_precision=no'])}]", "--json", str(out)
    ])  # fmt: skip
    from_store, in_memory = seen
    assert len({tuple(ids) for ids in from_store}) == 3
    assert in_memory == [from_store[0]] * 3
    assert "from the store / in memory: 0.990 (0.980-1.000); 5.0 images/s" in capsys.readouterr().out
    assert json.loads(out.read_text())["rows"][0]["speedup"]["median"] == 0.99
