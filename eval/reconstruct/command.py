"""`python -m eval reconstruct`: the table, the JSON, and the rows of every image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import OpenUnitInterval, PositiveInt
from tqdm import tqdm

from eval.bootstrap import Bootstrap
from eval.exact import exact_float32
from eval.features import FeatureNetwork, Inception
from eval.images import ImageSet
from eval.labels import label_sources
from eval.metrics import METRICS, make_metrics
from eval.pictures import PictureFolder
from eval.reconstruct.evaluate import Evaluation, Plan, evaluate
from eval.reconstruct.modes import MODES
from eval.reconstruct.protocol import notes_on, protocol_lines, settings_of
from eval.reconstruct.published import published_tables
from eval.reconstruct.summary import differences, summarise, worst_first
from eval.reconstruct.table import metric_blocks, published_lines, worst_lines
from eval.results import write_results
from eval.rows import rows_path, write_rows
from latentcodec.arguments import Parser
from latentcodec.codec import LatentCodec

SET_METRICS = ("rfid", "kid")
DTYPES = ("float32", "bfloat16", "float16")


def main(arguments: list[str], network: FeatureNetwork | None = None) -> None:
    """Measure, print and, with --json FILE, save. Wrong usage exits with 2.

    Args:
        network: compares sets of images in place of Inception; for tests.

    Raises:
        SourceError, VAELoadError, BackboneUnavailableError, BackboneFormatError, EvaluationError, LabelError.
    """
    parser = _parser()
    options = parser.parse(arguments)
    metrics = _checked(parser, options, with_sets=network is not None or options.inception is not None)
    device = torch.device(options.device)
    images = ImageSet(options.data, limit=options.images, size=options.size)
    of_sets = [name for name in metrics if name in SET_METRICS]
    if of_sets and network is None:
        network = Inception(options.inception, device=device)
    plan = Plan(
        metrics=make_metrics(
            [name for name in metrics if name in METRICS],
            backbones={"vgg": options.vgg, "alex": options.alex}, device=device,
        ),
        modes=tuple(options.modes), seed=options.seed, network=network if of_sets else None,
        keep_features="kid" in of_sets, pictures=_pictures(options),
    )  # fmt: skip
    codecs = _open_codecs(options, device)
    with exact_float32(), tqdm(images, unit="image", disable=None) as progress:
        found = evaluate(progress, codecs, plan)
    _report(options, metrics, images, codecs, plan, found)


def _parser() -> Parser:
    parser = Parser(
        prog="eval reconstruct",
        description="How well VAEs give images back, side by side: whole images of any size, 8-bit RGB, means over images "
        "with bootstrap intervals.",
    )
    add = parser.add_argument
    add("vaes", nargs="+", type=str, help="folders, files or hub names of VAEs; NAME=VAE says how tables call one")
    add("--data", type=str, required=True, help="images: a folder, .tar, .parquet, hf:owner/name[:split]")
    add("--images", type=PositiveInt | None, default=None, help="only the first so many")
    add("--size", type=PositiveInt | None, default=None, help="scale the short side to it and cut a square; else whole")
    add("--modes", type=list[str], default=list(MODES), help="latents to decode: the posterior's mean, a sample of it")
    add(
        "--metrics", type=list[str] | None, default=None,
        help=f"of {', '.join([*METRICS, *SET_METRICS])}; else all of images, and with --inception those of sets",
    )  # fmt: skip
    add("--inception", type=str | None, default=None, help="torch-fidelity's Inception weights, for rFID and KID")
    add("--vgg", type=str | None, default=None, help="features of VGG16, for LPIPS and DISTS")
    add("--alex", type=str | None, default=None, help="features of AlexNet, for LPIPS")
    add("--seed", type=int, default=0, help="of posterior samples and of the bootstrap")
    add("--resamples", type=PositiveInt, default=2000, help="of the bootstrap")
    add("--confidence", type=OpenUnitInterval, default=0.95, help="of the intervals")
    add("--dtype", type=str, default="float32", help=f"of the VAEs: {', '.join(DTYPES)}")
    add("--device", type=str, default="cuda" if torch.cuda.is_available() else "cpu")
    add("--sort", type=str | None, default=None, help="metric that says which images are worst; else the first one")
    add("--worst", type=PositiveInt, default=3, help="worst images to list for each VAE")
    add("--json", type=str | None, default=None, help="results file NAME.json; NAME.images.jsonl gets every image")
    add("--pictures", type=str | None, default=None, help="folder for originals and reconstructions, as PNG")
    return parser


def _checked(parser: Parser, options: Any, *, with_sets: bool) -> list[str]:
    """The metrics that were asked for; exits with 2 for names that are not known."""
    names: list[str] = list(dict.fromkeys(options.metrics or [*METRICS, *(SET_METRICS if with_sets else ())]))
    of_images = [name for name in names if name in METRICS]
    if options.sort is None:
        options.sort = of_images[0] if of_images else None
    choices: list[tuple[str, Sequence[str | None], Sequence[str]]] = [
        ("metrics", names, [*METRICS, *SET_METRICS]),
        ("modes", options.modes, MODES),
        ("dtype", [options.dtype], DTYPES),
        ("sort", [options.sort] if options.sort is not None else [], of_images),
    ]
    for flag, given, known in choices:
        if unknown := [str(name) for name in given if name not in known]:
            parser.error(f"--{flag}: expected {' or '.join(known)}, found {', '.join(unknown)}")
    return names


def _pictures(options: Any) -> PictureFolder | None:
    if options.pictures is None:
        return None
    return PictureFolder(options.pictures, None if options.json is None else Path(options.json).parent)


def _open_codecs(options: Any, device: torch.device) -> dict[str, LatentCodec]:
    # Scaling plays no part on the way there and back, so a file that does not say it is as good.
    return {
        name: LatentCodec.from_pretrained(
            source, dtype=getattr(torch, options.dtype), device=device, scaling_factor=1.0
        )
        for name, source in label_sources(options.vaes).items()
    }


def _report(
    options: Any,
    metrics: list[str],
    images: ImageSet,
    codecs: Mapping[str, LatentCodec],
    plan: Plan,
    found: Evaluation,
) -> None:
    bootstrap = Bootstrap(options.resamples, options.confidence, options.seed)
    summaries = summarise(found, bootstrap, rfid="rfid" in metrics, kid="kid" in metrics)
    apart = differences(found.rows, bootstrap)
    settings = settings_of(options, metrics, images, codecs, plan, found)
    notes = notes_on(images, found, metrics)
    tables = published_tables()

    print("\n".join(protocol_lines(settings)))
    print("\n".join(metric_blocks(summaries, metrics, apart)))
    if options.sort is not None:
        print(f"\nworst images by {options.sort}:", *worst_lines(found.rows, options.sort, options.worst), sep="\n")
    print("\nreported by others, under other protocols; not comparable with the figures above:")
    print("\n".join(published_lines(tables)))
    if notes:
        print("", *(f"note: {note}" for note in notes), sep="\n")
    if options.json is None:
        return
    rows = found.rows if options.sort is None else worst_first(found.rows, options.sort)
    write_rows(rows_path(options.json), rows)
    write_results(
        options.json, "reconstruct", settings, [summary.as_dict() for summary in summaries], torch.device(options.device),
        differences=[difference.as_dict() for difference in apart],
        skipped=[{"image": id, "reason": reason} for id, reason in images.skipped.rows],
        notes=notes, published=[table.as_dict() for table in tables],
    )  # fmt: skip
