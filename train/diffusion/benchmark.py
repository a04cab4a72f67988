"""What reading a store costs a diffusion training: the same step on latents from the store and on latents in memory.

`python -m train diffusion-benchmark --store LATENTS`. Each side works in a process of its own, a step at a time, in turns.
"""

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial

from eval.results import write_results
from eval.speed.sides import compare
from latentcodec.arguments import Parser
from train.diffusion.config import DiffusionConfig, load_diffusion_preset
from train.diffusion.job import DiffusionJob
from train.health import Meter
from train.launch import make_accelerator

NAME = "from the store / in memory"


def trainer_step(config: DiffusionConfig, *, from_store: bool) -> Callable[[], int]:
    """One update of a run that has just begun; returns its images. Not `from_store`: of its first batches for ever."""
    job = DiffusionJob(config, make_accelerator(config))
    if not from_store:
        job.batches = itertools.cycle([next(job.batches) for _ in range(config.accumulate)])
    meter, steps = Meter(), itertools.count()

    def step() -> int:
        job.update(next(steps), meter)
        return config.batch_size

    return step


def main(arguments: list[str]) -> None:
    """Print the speed-up, which is 1 where reading costs nothing, and, with --json FILE, save it."""
    parser = Parser(prog="train diffusion-benchmark", description=__doc__)
    parser.add_argument("--store", type=str, required=True, help="latents to train on")
    parser.add_argument("--preset", type=str, default="proxy", help="preset of train/diffusion/presets")
    parser.add_argument("--overrides", type=list[str], default=[], help="settings: --overrides [--batch_size=8]")
    parser.add_argument("--rounds", type=int, default=25, help="steps of either side")
    parser.add_argument("--json", type=str | None, default=None, help="file to write")
    options = parser.parse(arguments)
    config = load_diffusion_preset(
        options.preset, "--store.train", options.store, *options.overrides,
        "--validation.pictures", "0", "--out", "out/benchmark",
    )  # fmt: skip
    device = make_accelerator(config).device
    sides = (partial(trainer_step, config, from_store=kept) for kept in (True, False))
    found = compare(*sides, rounds=options.rounds, device=device, warm_up=2)
    speedup, rate = found.speedup, found.images_per_second
    print(f"{NAME}: {speedup.median:.3f} ({speedup.low:.3f}-{speedup.high:.3f}); {rate.median:.1f} images/s")
    if options.json is not None:
        settings = {"preset": options.preset, "batch_size": config.batch_size, "rounds": options.rounds}
        rows = [{"row": NAME, **dataclasses.asdict(found)}]
        write_results(options.json, "diffusion-step", settings, rows, device)
