"""The train step's rows of the speed table: against a bare hand-written loop, and with each of the trainer's switches.

`python -m train benchmark --preset NAME`. The rows, the table and the file are those of `python -m eval speed`, whose report
page shows them together; they are measured from here because `eval` knows nothing of `train`. Each side works in a process of
its own, a step at a time, in turns.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL

from eval.images import source_name
from eval.results import write_results
from eval.speed import table
from eval.speed.matrix import matrix_peak
from eval.speed.sides import Prepare, compare
from latentcodec.arguments import Parser
from latentcodec.images.pixels import normalize
from latentcodec.vae.presets import build_vae
from train.config import TrainConfig, load_preset
from train.cost import training_cost
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
"""Settings that differ from the config's, each for a row of its own."""

Step = Callable[[], int]
"""One update; returns its images."""


def trainer_step(config: TrainConfig, *, loader: bool = False) -> Step:
    """The trainer's own step with its schedule, clipping, meters and EMA: on the first batch of its loader for ever, or with
    `loader` on all that its loader gives, which is decoded meanwhile."""
    accelerator = make_accelerator(config)
    run = build_run(config, accelerator)
    batches = loader_batches(config, run.vae, accelerator)
    if not loader:
        batches = itertools.repeat(next(batches))
    meter = Meter()

    def step() -> int:
        train_step(run, batches, plan_step(config, run.state.step), meter)
        return config.batch_size

    return step


def loader_batches(config: TrainConfig, vae: AutoencoderKL, accelerator: Accelerator) -> Iterator[Batch]:
    """What the loader of a run gives from its first step on."""
    pin = accelerator.device.type == "cuda"
    loader = training_loader(config, vae.config.latent_channels, processes=1, rank=0, start_step=0, pin=pin)
    return iter(loader)


def bare_step(config: TrainConfig) -> Step:
    """A loop as one would write it by hand: same network, losses, batch and precision, one batch already on the device."""
    accelerator = make_accelerator(config)
    device = accelerator.device
    vae = build_vae(config.model.preset).to(device)
    batch = next(loader_batches(config, vae, accelerator))
    if config.channels_last:
        vae.to(memory_format=torch.channels_last)
    perceptual = None
    if "lpips" in config.loss.weights:
        perceptual = training_lpips(config.loss, device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-4, betas=config.optimizer.betas)
    images, noise = normalize(batch.images.to(device)), batch.noise.to(device)

    def step() -> int:
        with autocast(device, config.mixed_precision):
            posterior = vae.encode(images).latent_dist
            output = vae.decode(posterior.mean + posterior.std * noise).sample
        pair = Reconstruction(images, output.float(), posterior.mean.float(), posterior.logvar.float(), perceptual)
        loss = torch.stack([weight * TERMS[name](pair) for name, weight in config.loss.weights.items()]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return config.batch_size

    return step


def comparisons(config: TrainConfig, switches: list[str]) -> Iterator[tuple[str, TrainConfig, Prepare, Prepare]]:
    """Each row's name and config, and its two sides."""
    trainer, bare = partial(trainer_step, config), partial(bare_step, config)
    yield "train step / bare loop", config, trainer, bare
    yield "with its loader / bare loop", config, partial(trainer_step, config, loader=True), bare
    for switch in switches:
        switched = dataclasses.replace(config, **SWITCHES[switch])
        yield f"{switch} / default", switched, partial(trainer_step, switched), trainer


def main(arguments: list[str]) -> None:
    """Print a table and, with --json FILE, save it."""
    parser = Parser(prog="train benchmark", description=__doc__)
    parser.add_argument("--preset", type=str, default="tiny", help="preset of train/presets")
    parser.add_argument("--overrides", type=list[str], default=[], help="settings: --overrides [--batch_size=8]")
    parser.add_argument("--rounds", type=int, default=25, help="steps of either side")
    parser.add_argument("--switches", type=list[str], default=list(SWITCHES), help=f"some of {', '.join(SWITCHES)}")
    parser.add_argument("--json", type=str | None, default=None, help="file to write")
    options = parser.parse(arguments)
    if unknown := [switch for switch in options.switches if switch not in SWITCHES]:
        parser.error(f"--switches: expected {', '.join(SWITCHES)}, found {', '.join(unknown)}")
    config = load_preset(options.preset, *options.overrides, "--out", "out/benchmark")
    device = make_accelerator(config).device
    operations = 2e9 * training_cost(config).gmac_per_image
    peaks: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    print(table.HEADINGS)
    for name, own, ours, plain in comparisons(config, options.switches):
        dtype = torch.bfloat16 if own.mixed_precision == "bf16" else torch.float32
        type_name = str(dtype).removeprefix("torch.")
        if type_name not in peaks:
            peaks[type_name] = matrix_peak(device, dtype)
        found = compare(ours, plain, rounds=options.rounds, device=device, warm_up=2)
        rows.append(table.record(name, own.data.crop, dtype, own.batch_size, found, operations, peaks[type_name]))
        print(table.line(rows[-1]), flush=True)
    print(table.machine(device, peaks))
    if options.json is not None:
        sources = config.data.source if isinstance(config.data.source, dict) else [config.data.source]
        settings = {
            "preset": options.preset, "network": config.model.preset, "loss": config.loss.weights, "rounds": options.rounds,
            "data": [source_name(source) for source in sources], "workers": config.data.workers, "matrix_peak": peaks,
        }  # fmt: skip
        write_results(options.json, "speed", settings, rows, device)
