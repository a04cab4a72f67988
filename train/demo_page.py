"""The page that ends the demo: the export beside the network it started from, on photographs not trained on."""

import json
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from accelerate.utils import set_seed

from eval.latents.command import main as measure_latents
from eval.reconstruct.command import main as measure_reconstructions
from eval.report.command import write_report
from latentcodec.vae.loading import save_vae
from train.config import TrainConfig
from train.warm_start import initial_vae

SIDE = 256


def write_page(out: Path, export: Path, held_out: Path, config: TrainConfig) -> Path:
    """Measure both, and write `out/report.html`; results, tables and pictures stay in `out/report`."""
    folder = out / "report"
    metrics = json.dumps(config.validation.metrics)
    with tempfile.TemporaryDirectory() as start:
        set_seed(config.seed)  # as the trainer does: the same weights
        save_vae(initial_vae(config.model)[0], Path(start))
        vaes = [f"trained={export}", f"untrained={start}"]
        shared = ["--data", str(held_out), "--device", "cpu"]
        _kept(
            folder / "reconstruct",
            measure_reconstructions,
            [*vaes, *shared, "--modes", '["mean"]', "--metrics", metrics],
        )
        few = ["--size", str(SIDE), "--decoded", "0"]
        _kept(folder / "latents", measure_latents, [*vaes, *shared, *few])
    results = [folder / "reconstruct.json", folder / "latents.json"]
    write_report(results, out / "report.html", title="What the demo has trained")
    return out / "report.html"


def _kept(path: Path, measure: Callable[[list[str]], None], arguments: list[str]) -> None:
    """Run a measurement; its results become PATH.json, its table PATH.txt, its pictures the folder PATH."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".txt").open("w", encoding="utf-8") as table, redirect_stdout(table):
        measure([*arguments, "--json", str(path.with_suffix(".json")), "--pictures", str(path)])
