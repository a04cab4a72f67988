"""Which VAE's latents are easier to generate? The same small diffusion model on each, with the same seeds and budget.

`python -m train proxy VAE... --data PHOTOS --validation OTHERS`. Good reconstructions say nothing about this, and a full
diffusion training is too dear to be asked for each VAE (Yao et al. 2025, arXiv 2501.01423, section 3, shows how far the
two can be apart). With `--sanity`, each VAE also competes with its own latents shuffled in space: a budget under which
those do not lose is too small to be trusted.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.features import POOLED, FeatureNetwork, Inception, PooledBackbone
from eval.results import write_results
from eval.sets import FeatureSet, frechet_distance
from latentcodec.arguments import Parser
from latentcodec.codec import LatentCodec
from latentcodec.images.sources import open_source
from latentcodec.store.dataset import LatentDataset
from latentcodec.store.draws import Draw
from latentcodec.store.files import StoreFolder
from latentcodec.store.plan import plan_settings, require_listed
from latentcodec.store.precompute import precompute
from latentcodec.store.preprocessing import Crop, Preprocessing
from latentcodec.store.samples import LatentBatch
from train.diffusion.config import DiffusionConfig, StoreConfig, load_diffusion_preset
from train.diffusion.job import DiffusionJob, run_job
from train.report import read_metrics
from train.validation import load_squares

FIGURES = ("velocity", "unexplained", "structure")
"""Of the last validation; smaller is better for all."""


class ShuffledInSpace(LatentDataset):
    """A store whose latents change places, in each image alike: nothing is lost, and neighbours tell nothing any more."""

    def batch(self, rows: Sequence[int | Draw]) -> LatentBatch:
        """As `LatentDataset.batch`."""
        batch = super().batch(rows)
        latents = batch["latents"]
        order = torch.randperm(latents[0, 0].numel(), generator=torch.Generator().manual_seed(0))
        return {**batch, "latents": latents.flatten(2)[:, :, order].reshape(latents.shape)}


@dataclass(frozen=True)
class Candidate:
    """A VAE in the comparison, or its latents shuffled."""

    name: str
    vae: str
    kind: type[LatentDataset] = LatentDataset


@dataclass(frozen=True)
class Budget:
    """What every candidate gets."""

    config: DiffusionConfig
    seeds: tuple[int, ...]
    data: str
    validation: str
    size: int
    """Side of the images in pixels."""
    samples: int
    """Pictures drawn for the Fréchet distance."""


def write_stores(vae: str, budget: Budget, folder: Path) -> StoreConfig:
    """The latents of both sets of images, or what is missing of them."""
    codec = LatentCodec.from_pretrained(vae)
    stores = {}
    for role, images in (("train", budget.data), ("validation", budget.validation)):
        source = require_listed(open_source(images), images)
        crop = Preprocessing(Crop(budget.size, budget.size))
        settings = plan_settings(source, codec, crop, name=Path(images).name)
        precompute(source, StoreFolder(folder / role), codec, settings)
        stores[role] = str(folder / role)
    return StoreConfig(train=stores["train"], validation=stores["validation"], vae=vae)


def compete(candidate: Candidate, budget: Budget, seed: int, stores: StoreConfig, out: Path) -> DiffusionJob:
    """One run, resumed where it was stopped."""
    config = dataclasses.replace(budget.config, seed=seed, store=stores, out=str(out))
    shuffled = candidate.kind is not LatentDataset
    if shuffled:  # the decoder could make nothing of its samples
        config = dataclasses.replace(config, validation=dataclasses.replace(config.validation, pictures=0))
    return run_job(config, candidate.kind)


def distance_to_photos(job: DiffusionJob, budget: Budget, network: FeatureNetwork, photos: FeatureSet) -> float:
    """Fréchet distance of samples to the validation images; it shrinks with their numbers, which all candidates share."""
    drawn = FeatureSet(keep=False)
    for number, picture in enumerate(job.draw_samples(budget.samples)):
        drawn.add(str(number), network(picture))
    return frechet_distance(drawn.statistics, photos.statistics)


def compare(
    candidates: Sequence[Candidate], budget: Budget, out: Path, network: FeatureNetwork | None
) -> list[dict[str, Any]]:
    """One row for each candidate and seed."""
    photos = FeatureSet(keep=False)
    if network is not None:
        for id, image in load_squares(budget.validation, budget.samples, budget.size).items():
            photos.add(id, network(image))
    rows = []
    for candidate in candidates:
        stores = write_stores(candidate.vae, budget, out / Path(candidate.vae).name / "stores")
        for seed in budget.seeds:
            folder = out / candidate.name.replace(", ", "-").replace(" ", "-") / f"seed-{seed}"
            job = compete(candidate, budget, seed, stores, folder)
            curve = read_metrics(folder, "validation")
            row = {"vae": candidate.name, "seed": seed, **{name: float(curve[name][-1]) for name in FIGURES}}
            row["curve"] = {name: curve[name].tolist() for name in ("step", *FIGURES)}
            if network is not None and candidate.kind is LatentDataset:
                row["frechet"] = distance_to_photos(job, budget, network, photos)
            rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over the seeds with their range, best first, and how often each beats the next."""
    names = [name for name in (*FIGURES, "frechet") if any(name in row for row in rows)]
    by_vae: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_vae.setdefault(row["vae"], []).append(row)
    order = sorted(by_vae, key=lambda vae: np.mean([row["structure"] for row in by_vae[vae]]))
    lines = [f"{'':32}" + "".join(f"{name:>26}" for name in names) + f"{'before the next':>18}"]
    for place, vae in enumerate(order):
        line = f"{vae:32}"
        for name in names:
            values = [row[name] for row in by_vae[vae] if name in row]
            line += f"{_with_range(values):>26}"
        if place + 1 < len(order):
            pairs = list(zip(by_vae[vae], by_vae[order[place + 1]], strict=True))
            line += f"{sum(a['structure'] < b['structure'] for a, b in pairs):>9} of {len(pairs)} seeds"
        lines.append(line)
    return "\n".join(lines)


def _with_range(values: Sequence[float]) -> str:
    return f"{np.mean(values):.4f} ({min(values):.4f}-{max(values):.4f})" if values else "-"


def _network(kind: str | None, weights: str | None) -> FeatureNetwork | None:
    if kind is None:
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Inception(weights, device=device) if kind == "inception" else PooledBackbone(kind, weights, device=device)


def main(arguments: list[str]) -> None:
    """Print a table and, with --json FILE, save it."""
    parser = Parser(prog="train proxy", description=__doc__)
    parser.add_argument("vaes", type=str, nargs="+", help="VAEs, as load_vae takes them")
    parser.add_argument("--data", type=str, required=True, help="images to train on")
    parser.add_argument("--validation", type=str, required=True, help="other images")
    parser.add_argument(
        "--out", type=str, default="runs/proxy", help="folder of stores and runs; they are gone on with"
    )
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--seeds", type=list[int], default=[0, 1, 2])
    parser.add_argument("--preset", type=str, default="proxy", help="preset of train/diffusion/presets")
    parser.add_argument("--overrides", type=list[str], default=[], help="settings: --overrides [--steps=400]")
    parser.add_argument(
        "--sanity", type=bool, default=False, help="also the latents shuffled in space, which must lose"
    )
    parser.add_argument(
        "--features",
        type=str | None,
        default=None,
        help=f"Frechet distance of samples in inception, {', '.join(POOLED)}",
    )
    parser.add_argument("--weights", type=str | None, default=None, help="file of that network's weights")
    parser.add_argument("--samples", type=int, default=256, help="samples and images of the Frechet distance")
    parser.add_argument("--json", type=str | None, default=None, help="file to write")
    options = parser.parse(arguments)
    config = load_diffusion_preset(options.preset, "--store.train", "set below", *options.overrides)
    budget = Budget(config, tuple(options.seeds), options.data, options.validation, options.size, options.samples)
    candidates = []
    for vae in options.vaes:
        name = Path(vae).name
        candidates.append(Candidate(name, vae))
        if options.sanity:
            candidates.append(Candidate(f"{name}, shuffled in space", vae, ShuffledInSpace))
    network = _network(options.features, options.weights)
    rows = compare(candidates, budget, Path(options.out), network)
    print(table(rows))
    if options.json is not None:
        settings = {
            "config": {**config.as_dict(), "out": "", "store": {}}, "seeds": options.seeds, "size": options.size,
            "data": Path(options.data).name, "validation": Path(options.validation).name,
            "features": None if network is None else network.description, "samples": options.samples,
        }  # fmt: skip
        write_results(
            options.json, "proxy", settings, rows, torch.device("cuda" if torch.cuda.is_available() else "cpu")
        )
