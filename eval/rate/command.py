"""`python -m eval rate IMAGES --codecs jpeg,webp,latentcodec:VAE`: real files of many codecs, compared."""

import os
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import OpenUnitInterval, PositiveFloat, PositiveInt
from tqdm import tqdm

from eval.bootstrap import Bootstrap
from eval.images import ImageSet
from eval.metrics import METRICS
from eval.provenance import PACKAGES, device_name, installed_version
from eval.rate.codec import CodecOptions, RateError
from eval.rate.journal import Journal
from eval.rate.measure import Bench, BenchOptions
from eval.rate.registry import CODECS, parse_codecs, parse_qualities
from eval.rate.report import data_settings, draw_plots, find, print_findings, save
from eval.rate.run import Plan, count_rows, run
from eval.reconstruct.protocol import backbone_files
from eval.results import METRIC_PACKAGES
from latentcodec.arguments import Parser
from latentcodec.bitstream.codec import EFFORTS

DTYPES = ("float32", "bfloat16", "float16")
ALIASES = {"lpips": "lpips_alex"}
"""The network that LPIPS is reported with in compression."""
DEFAULT_METRICS = "psnr,ssim,ms_ssim,lpips,dists"
_RATE_PACKAGES = ("bjontegaard", "pillow-jxl-plugin", "compressai")


def main(arguments: list[str]) -> None:
    """Measure, print and, as asked for, save and draw. Wrong usage exits with 2.

    Raises:
        RateError, SourceError, VAELoadError, BitstreamError, BackboneUnavailableError, BackboneFormatError, RowsError,
        LabelError.
    """
    parser = _parser()
    options = parser.parse(arguments)
    metrics = _metrics(parser, options.metrics)
    if options.dtype not in DTYPES:
        parser.error(f"--dtype: expected {' or '.join(DTYPES)}, found {options.dtype}")
    bench_options = BenchOptions(
        tuple(metrics), {"vgg": options.vgg, "alex": options.alex}, options.device, options.pictures,
        None if options.json is None else os.fspath(Path(options.json).parent),
    )  # fmt: skip
    images = ImageSet(options.images, limit=options.count, size=options.size)
    bench = Bench(bench_options)
    plan, identities = _plan(options, bench)
    anchors = [] if options.anchor is None else [name.strip() for name in options.anchor.split(",")]
    if wrong := [name for name in anchors if name not in identities]:
        raise RateError(f"anchor: expected one of {', '.join(identities)}, found {wrong[0]}")
    settings = _settings(options, metrics)
    journal = Journal(options.json, settings, identities)
    try:
        with tqdm(total=_total(images, plan), unit="row", disable=None) as bar:
            ids = run(images, plan, bench, bench_options, journal, jobs=options.jobs, progress=bar.update)
    finally:
        journal.close()
    found = find(journal, images, ids, metrics, anchors, options.most_bpp, _bootstrap(options))
    settings = {
        "data": data_settings(images, journal, ids), **settings, "codecs": journal.codecs, "anchor": ",".join(found.anchors),
        "bd_rate": "bjontegaard, akima, on means over images", "bootstrap": vars(_bootstrap(options)),
    }  # fmt: skip
    print_findings(found, metrics, settings)
    if options.plots is not None:
        draw_plots(found, metrics, f"{len(ids)} images of {images.name}", options.plots)
    if options.json is not None:
        save(options.json, settings, found, images, torch.device(options.device))


def _parser() -> Parser:
    parser = Parser(
        prog="eval rate",
        description="Real files of many codecs on the same images: sizes, quality, times, BD-rates, plots. "
        "The same command again goes on where it stopped, if --json is given.",
    )
    add = parser.add_argument
    add(
        "images",
        type=str,
        help="a folder, .tar, .parquet, hf:owner/name[:split]; broken images are left out and listed",
    )
    add("--codecs", type=str, required=True, help=f"joined by commas: {', '.join(CODECS)}; [NAME=]KIND[:VAE or model]")
    add("--qualities", type=str | None, default=None, help="CODEC=Q/Q/..., joined by commas; else each codec's own")
    add("--efforts", type=str, default="1", help="of latentcodec, joined by commas; several are several codecs")
    add("--metrics", type=str, default=DEFAULT_METRICS, help=f"of {', '.join(METRICS)}; lpips is lpips_alex")
    add(
        "--anchor",
        type=str | None,
        default=None,
        help="codecs that BD-rates are against, joined by commas; else the first with files",
    )
    add("--most_bpp", type=PositiveFloat | None, default=None, help="BD-rates once more, of what costs at most so much")
    add("--count", type=PositiveInt | None, default=None, help="only the first so many images")
    add("--size", type=PositiveInt | None, default=None, help="scale the short side to it and cut a square; else whole")
    add("--jobs", type=PositiveInt, default=1, help="processes; times are honest with one")
    add("--vgg", type=str | None, default=None, help="features of VGG16, for LPIPS and DISTS")
    add("--alex", type=str | None, default=None, help="features of AlexNet, for LPIPS")
    add("--dtype", type=str, default="float32", help=f"of the VAEs: {', '.join(DTYPES)}")
    add("--device", type=str, default="cuda" if torch.cuda.is_available() else "cpu")
    add("--seed", type=int, default=0, help="of the bootstrap")
    add("--resamples", type=PositiveInt, default=2000, help="of the bootstrap")
    add("--confidence", type=OpenUnitInterval, default=0.95, help="of the intervals in the results file")
    add("--json", type=str | None, default=None, help="results file NAME.json; NAME.images.jsonl gets every image")
    add("--pictures", type=str | None, default=None, help="folder for originals and reconstructions, as PNG")
    add("--plots", type=str | None, default=None, help="folder for plots, as PNG and SVG")
    return parser


def _metrics(parser: Parser, text: str) -> list[str]:
    """The names that were asked for; exits with 2 for those that are not known."""
    names = [ALIASES.get(name.strip(), name.strip()) for name in text.split(",") if name.strip()]
    if not names or (unknown := [name for name in names if name not in METRICS]):
        parser.error(f"--metrics: expected {' or '.join(METRICS)}, found {', '.join(unknown) if names else 'none'}")
    return list(dict.fromkeys(names))


def _plan(options: Any, bench: Bench) -> tuple[Plan, dict[str, Any]]:
    """What is measured, and {codec: what its rows depend on}."""
    known = {str(effort): effort for effort in EFFORTS}
    asked_efforts = [effort.strip() for effort in options.efforts.split(",")]
    if wrong := [effort for effort in asked_efforts if effort not in known]:
        raise RateError(f"efforts: expected some of {','.join(known)}, found {','.join(wrong)}")
    efforts = [known[effort] for effort in dict.fromkeys(asked_efforts)]
    specs = parse_codecs(options.codecs, CodecOptions(options.dtype, options.device), efforts)
    asked = parse_qualities(options.qualities, specs)
    codecs = {spec.name: bench.codec(spec) for spec in specs}
    plan = [(spec, asked.get(spec.name, codecs[spec.name].qualities)) for spec in specs]
    return plan, {spec.name: {"kind": spec.kind, **codecs[spec.name].identity()} for spec in specs}


def _settings(options: Any, metrics: list[str]) -> dict[str, Any]:
    """What every row depends on, times included; names of files only."""
    packages = (*PACKAGES, *METRIC_PACKAGES, *_RATE_PACKAGES)
    return {
        "metrics": metrics,
        "backbones": backbone_files(metrics, {"vgg": options.vgg, "alex": options.alex}),
        "size": options.size,
        "pictures": options.pictures is not None,
        "jobs": options.jobs,
        "device": device_name(torch.device(options.device)),
        "threads": torch.get_num_threads(),
        "versions": {name: found for name in packages if (found := installed_version(name)) is not None},
    }


def _bootstrap(options: Any) -> Bootstrap:
    return Bootstrap(options.resamples, options.confidence, options.seed)


def _total(images: ImageSet, plan: Plan) -> int | None:
    """Rows of the run; None for a stream, whose length is not known."""
    try:
        return count_rows(len(images), plan)
    except TypeError:
        return None
