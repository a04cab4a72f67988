"""The same run on other launches: two processes, or two accumulation steps, are one process with the joint batch."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.multiprocessing
from torch import Tensor

from train.config import load_preset
from train.data import training_loader
from train.health import Meter
from train.launch import make_accelerator
from train.loop import train_step
from train.run import build_run
from train.schedule import plan_step

STEPS = 3
RULES = {
    "constant": ["--adversarial.rule", "constant"],
    "adaptive": ["--adversarial.rule", "adaptive"],
    "lecam": ["--adversarial.lecam", "0.1"],
    "r1": ["--adversarial.r1", "0.1", "--adversarial.r1_every", "2"],
    "equivariance": ["--equivariance.probability", "0.7", "--equivariance.latent_weight", "0.1"],
}
ACCUMULATED = {"constant": [*RULES["constant"], "--accumulate", "2"]}


def small_config(out: Path, *overrides: str) -> Any:
    """Three steps of a small network with the GAN on from the first, in fp32 on procedural images."""
    return load_preset(
        "tiny", "--model.preset", "tiny-f8d4", "--out", str(out), "--steps", str(STEPS), "--batch_size", "4",
        "--mixed_precision", "no", "--data.source", "procedural:3", "--data.crop", "32", "--data.workers", "0",
        "--loss.weights", "{l1: 1.0, ms_ssim: 0.2, kl: 1.0e-6}", "--optimizer.clip", "0", "--optimizer.lr", "1e-4",
        "--adversarial.discriminator", "patch", "--adversarial.width", "16", "--adversarial.weight", "0.5",
        "--adversarial.head_start", "0", "--adversarial.ramp", "0", *overrides,
    )  # fmt: skip


def three_steps(config: Any) -> dict[str, Tensor]:
    """Gradients of both sides at every step, and the parameters and averages after the last."""
    accelerator = make_accelerator(config)
    run = build_run(config, accelerator)
    assert run.discriminator is not None
    sides = {"vae": run.vae, "discriminator": run.state.networks["discriminator"]}
    seen: dict[str, Tensor] = {}

    def record(side: str) -> Any:
        def hook(optimizer: Any, args: Any, kwargs: Any) -> None:
            for name, parameter in sides[side].named_parameters():
                seen[f"gradient {run.state.step} {side}.{name}"] = parameter.grad.clone()

        return hook

    run.state.optimizers["vae_optimizer"].register_step_pre_hook(record("vae"))
    run.state.optimizers["discriminator_optimizer"].register_step_pre_hook(record("discriminator"))
    loader = training_loader(
        config, 4, processes=accelerator.num_processes, rank=accelerator.process_index, start_step=0, pin=False
    )
    batches, meter = iter(loader), Meter()
    for step in range(STEPS):
        train_step(run, batches, plan_step(config, step), meter)
    for side, module in (*sides.items(), ("ema", run.ema.model)):
        seen |= {f"after {side}.{name}": value.clone() for name, value in module.state_dict().items()}
    return seen


def _worker(rank: int, processes: int, port: int, cases: dict[str, list[str]], folder: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    if processes > 1:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes), "ACCELERATE_USE_CPU": "true",
        }  # fmt: skip
    for name, overrides in cases.items():
        seen = three_steps(small_config(Path(folder) / f"run-{name}", *overrides))
        if rank == 0:
            safetensors.torch.save_file(seen, Path(folder) / f"{name}.safetensors")


def _launch(processes: int, cases: dict[str, list[str]], folder: Path) -> dict[str, dict[str, Tensor]]:
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_worker, args=(processes, port, cases, str(folder)), nprocs=processes)
    return {name: safetensors.torch.load_file(folder / f"{name}.safetensors") for name in cases}


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("launches")
    return {
        "one": _launch(1, RULES, folder / "one"),
        "two": _launch(2, RULES, folder / "two"),
        "accumulated": _launch(1, ACCUMULATED, folder / "accumulated"),
    }


def assert_same_run(run: dict[str, Tensor], reference: dict[str, Tensor]) -> None:
    """Relative 1e-5 for the gradient of each side at each step and for the weights after; 1e-3 for every single tensor."""
    assert run.keys() == reference.keys()
    # The gradient of a key's bias is 0 but for rounding (softmax does not see a shift of its logits),
    # and Adam turns rounding noise into steps of full length.
    names = [name for name in reference if "to_k.bias" not in name]
    assert len(names) > 500
    groups: dict[str, list[str]] = {}
    for name in names:
        # "gradient 2 vae.encoder..." belongs to "gradient 2 vae", "after ema.decoder..." to "after ema"
        groups.setdefault(name.split(".")[0], []).append(name)
        # A bias that started at 0 has only been moved by Adam's first steps of 1e-4.
        scale = reference[name].norm() + 1e-4
        assert (run[name] - reference[name]).norm() <= 1e-3 * scale, name
    assert {
        "gradient 0 vae",
        "gradient 2 discriminator",
        "after vae",
        "after discriminator",
        "after ema",
    } <= groups.keys()
    for group, members in groups.items():
        one, other = (torch.cat([side[name].flatten() for name in members]) for side in (run, reference))
        assert (one - other).norm() <= 1e-5 * other.norm(), group


@pytest.mark.parametrize("rule", RULES)
def test_two_processes_equal_one_with_the_joint_batch(rule: str, launches: dict[str, Any]) -> None:
    assert_same_run(launches["two"][rule], launches["one"][rule])


def test_accumulation_of_two_equals_none(launches: dict[str, Any]) -> None:
    assert_same_run(launches["accumulated"]["constant"], launches["one"]["constant"])


def test_the_comparison_notices_another_run(launches: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        assert_same_run(launches["one"]["adaptive"], launches["one"]["constant"])
