"""Step time of the trainer, paired: against a bare hand-written loop, and with each of its switches on and off.

`python -m train benchmark --preset NAME` alternates steps of both sides in one process; the figure is the median of their
ratios, between its quartiles. Each switch runs in a process of its own, whose peak memory is its own.
"""

import dataclasses
import itertools
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL

from eval.pairing import Paired, paired
from eval.provenance import provenance
from latentcodec.arguments import Parser
from latentcodec.images.pixels import normalize
from latentcodec.vae.presets import build_vae
from train.config import TrainConfig, load_preset
from train.data import Batch, training_loader
from train.health import Meter
from train.launch import make_accelerator
from train.loop import train_step
from train.losses import TERMS, Reconstruction
from train.perceptual import training_lpips
from train.run import build_run
from train.schedule import plan_step
from train.step import autocast

SWITCHES: dict[str, dict[str, Any]] = {
    "fp32": {"mixed_precision": "no"},
    "channels_last": {"channels_last": True},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "compile": {"compile": True},
}
"""Each row of the table: settings that differ from the config's."""

Step = Callable[[], None]


def trainer_step(config: TrainConfig, accelerator: Accelerator, batch: Batch | None = None) -> Step:
    """The trainer's own step with its schedule, clipping, meters and EMA; on its loader's batches, or on `batch` for ever."""
    run = build_run(config, accelerator)
    batches = itertools.repeat(batch) if batch is not None else loader_batches(config, run.vae, accelerator)
    meter = Meter()

    def step() -> None:
        train_step(run, batches, plan_step(config, run.state.step), meter)

    return step


def loader_batches(config: TrainConfig, vae: AutoencoderKL, accelerator: Accelerator) -> Iterator[Batch]:
    """What the loader of a run gives from its first step on."""
    pin = accelerator.device.type == "cuda"
    loader = training_loader(config, vae.config.latent_channels, processes=1, rank=0, start_step=0, pin=pin)
    return iter(loader)


def bare_step(config: TrainConfig, device: torch.device, batch: Batch) -> Step:
    """A loop as one would write it by hand: same network, losses, batch and precision, one batch already on the device."""
    vae = build_vae(config.model.preset).to(device)
    if config.channels_last:
        vae.to(memory_format=torch.channels_last)
    perceptual = None
    if "lpips" in config.loss.weights:
        perceptual = training_lpips(config.loss, device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-4, betas=config.optimizer.betas)
    images, noise = normalize(batch.images.to(device)), batch.noise.to(device)

    def step() -> None:
        with autocast(device, config.mixed_precision):
            posterior = vae.encode(images).latent_dist
            output = vae.decode(posterior.mean + posterior.std * noise).sample
        pair = Reconstruction(images, output.float(), posterior.mean.float(), posterior.logvar.float(), perceptual)
        loss = torch.stack([weight * TERMS[name](pair) for name, weight in config.loss.weights.items()]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _summary(times: Paired, batch: int) -> dict[str, float]:
    ours = statistics.median(times.ours)
    return {"seconds_per_step": ours, "images_per_second": batch / ours, **times.ratio().as_dict()}


def _peak_memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def against_bare_loop(config: TrainConfig, rounds: int, *, loader: bool) -> dict[str, float]:
    """Ratio of the trainer's step to the bare loop's; above 1 the trainer is slower. With `loader`, it decodes its images."""
    accelerator = make_accelerator(config)
    first = next(loader_batches(config, build_vae(config.model.preset), accelerator))
    ours = trainer_step(config, accelerator, None if loader else first)
    bare = bare_step(config, accelerator.device, first)
    return _summary(paired(ours, bare, rounds=rounds, device=accelerator.device), config.batch_size)


def against_default(config: TrainConfig, switch: str, rounds: int) -> dict[str, float]:
    """Ratio of the step with one switch to the config's own, and the peak memory of the process with the switch alone."""
    accelerator = make_accelerator(config)
    switched = trainer_step(dataclasses.replace(config, **SWITCHES[switch]), accelerator)
    switched()
    switched()
    memory = _peak_memory_gib(accelerator.device)
    default = trainer_step(config, accelerator)
    times = paired(switched, default, rounds=rounds, device=accelerator.device)
    return _summary(times, config.batch_size) | {"peak_memory_gib": memory}


def _in_own_process(arguments: list[str]) -> dict[str, float]:
    command = [sys.executable, "-m", "train", "benchmark", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{finished.stderr[-2000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    """Print a table and, with --json FILE, save it."""
    parser = Parser(prog="train benchmark", description=__doc__)
    parser.add_argument("--preset", type=str, default="tiny", help="preset of train/presets")
    parser.add_argument("--overrides", type=list[str], default=[], help="settings: --overrides [--batch_size=8]")
    parser.add_argument("--rounds", type=int, default=25, help="steps of either side")
    parser.add_argument("--switches", type=list[str], default=list(SWITCHES))
    parser.add_argument("--only", type=str | None, default=None, help="internal: one switch, as a line of JSON")
    parser.add_argument("--json", type=str | None, default=None, help="file to write")
    options = parser.parse(arguments)
    config = load_preset(options.preset, *options.overrides, "--out", "out/benchmark")
    if options.only is not None:
        print(json.dumps(against_default(config, options.only, options.rounds)))
        return
    rows = {
        "trainer / bare loop": against_bare_loop(config, options.rounds, loader=False),
        "with its loader / bare loop": against_bare_loop(config, options.rounds, loader=True),
    }
    for switch in options.switches:
        rows[f"{switch} / default"] = _in_own_process([*arguments, "--only", switch])
    print(f"{'':32}{'ratio':>8}{'from':>8}{'to':>8}{'img/s':>9}{'peak GiB':>10}")
    for name, row in rows.items():
        peak = f"{row['peak_memory_gib']:10.2f}" if "peak_memory_gib" in row else ""
        print(f"{name:32}{row['median']:8.3f}{row['low']:8.3f}{row['high']:8.3f}{row['images_per_second']:9.2f}{peak}")
    if options.json is not None:
        record = {
            "rows": rows,
            "config": config.as_dict(),
            **provenance("cuda" if torch.cuda.is_available() else "cpu"),
        }
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")
