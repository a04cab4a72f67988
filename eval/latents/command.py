"""`python -m eval latents VAE... --data DIR`: the table, the JSON and the pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from eval.images import ImageSet
from eval.labels import label_sources
from eval.latents.equivariance import transforms
from eval.latents.measure import Batch, Disturbances, batches, decode_disturbed, require_divisible, survey
from eval.latents.models import CodecModel
from eval.latents.pictures import PrincipalColours, Sheet
from eval.latents.record import NOTHING_DECODED, Row, decoded_fields, scale_fields, survey_fields
from eval.latents.table import channel_table, comparison
from eval.results import write_results
from latentcodec.arguments import Parser
from latentcodec.codec import LatentCodec
from latentcodec.precision import SUPPORTED

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in SUPPORTED}

_DESCRIPTION = (
    "What the latents of VAEs are like, side by side, and how hard they are for a diffusion model: scale, correlation and "
    "spectrum of the posterior's mean; KL; equivariance; pictures decoded after noise and without high frequencies."
)


def _parser() -> Parser:
    parser = Parser(prog="eval latents", description=_DESCRIPTION)
    add = parser.add_argument
    add("vae", nargs="+", type=str, help="folder, file or hub name; several are compared")
    add("--data", type=str, required=True, help="images: a folder, shards, hf:owner/name, procedural:SEED")
    add("--size", type=int, default=256, help="short side scaled to so many pixels, and a square cut from the centre")
    add("--images", type=int, default=1000, help="at most so many images")
    add("--decoded", type=int, default=50, help="so many of them decoded after each disturbance; 0: none")
    add("--scales", type=list[float], default=[0.5, 0.25], help="equivariance: multiples of 1/32; best 1/2 and 1/4")
    add("--turns", type=list[int], default=[90, 180], help="equivariance: 90, 180, 270 degrees")
    add("--noise", type=list[float], default=[0.05, 0.1, 0.25, 0.5], help="in units of each channel's deviation")
    add("--keep", type=list[float], default=[0.75, 0.5, 0.25], help="frequencies above so much of Nyquist are cut")
    add("--seed", type=int, default=0, help="of the noise")
    add(
        "--scaling_factor",
        type=float | None,
        default=None,
        help="for files that do not say it, and instead of what others say",
    )
    add("--dtype", type=str, default="float32", help=f"to compute in: {', '.join(_DTYPES)}")
    add("--device", type=str, default="cuda" if torch.cuda.is_available() else "cpu")
    add("--batch", type=int, default=8, help="images at a time; on a CPU one by one in any case")
    add("--pictures", type=str | None, default=None, help="folder for pictures of latents by principal components")
    add("--pictured", type=int, default=8, help="so many images there")
    add("--json", type=str | None, default=None, help="file to write")
    return parser


def _check(options: Any) -> Disturbances:
    """What the options ask of the second pass.

    Raises:
        ValueError: an option out of range; names it.
    """
    for name in ("size", "images", "batch", "pictured"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name}: expected at least 1, found {getattr(options, name)}")
    if options.decoded < 0:
        raise ValueError(f"decoded: expected at least 0, found {options.decoded}")
    if options.dtype not in _DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(_DTYPES)}, found {options.dtype}")
    for size in options.noise:
        if not 0 < size < float("inf"):
            raise ValueError(f"noise: expected positive sizes, found {size:g}")
    for keep in options.keep:
        if not 0 <= keep < 1:
            raise ValueError(f"keep: expected shares from 0 to below 1, found {keep:g}")
    return Disturbances(
        transforms(options.scales, options.turns), tuple(options.noise), tuple(options.keep), options.seed
    )


def main(arguments: list[str]) -> None:
    """Measure, print the table and, with --json FILE, save it.

    Raises:
        LatentsError, LabelError, SourceError, VAELoadError: see `eval.latents.measure`, `label_sources`, `ImageSet`,
            `load_vae`.
    """
    parser = _parser()
    options = parser.parse(arguments)
    try:
        disturbances = _check(options)
    except ValueError as error:
        parser.error(str(error))
    codecs = {
        name: LatentCodec.from_pretrained(
            source, dtype=_DTYPES[options.dtype], device=options.device, scaling_factor=options.scaling_factor
        )
        for name, source in label_sources(options.vae).items()
    }
    require_divisible(options.size, {name: codec.factor for name, codec in codecs.items()}, options.scales)
    beside = None if options.json is None else Path(options.json).parent
    sheet = None if options.pictures is None else Sheet(options.pictures, beside)
    measured = [measure(name, codec, disturbances, options, sheet) for name, codec in codecs.items()]
    _report([row for row, _ in measured], measured[0][1], sheet, options)


def measure(
    name: str, codec: LatentCodec, disturbances: Disturbances, options: Any, sheet: Sheet | None
) -> tuple[Row, ImageSet]:
    """One VAE's row, and the images that it was measured on. Adds its pictures to `sheet`."""
    model = CodecModel(codec)
    images = _open(options, options.images)
    found = survey(model, _batches(images, options, f"{name}: encoding"))
    row: Row = {
        "vae": name,
        "fingerprint": codec.fingerprint,
        "factor": codec.factor,
        "scaling": codec.scaling.to_json(),
        **scale_fields(found.distribution.statistics, codec.scaling),
        **survey_fields(found, options.size**2),
        **NOTHING_DECODED,
    }
    if options.decoded:
        few = _open(options, min(options.decoded, options.images))
        parts = _batches(few, options, f"{name}: decoding")
        decoded = decode_disturbed(model, parts, found.distribution.std(), disturbances)
        row |= decoded_fields(decoded, found.distribution)
    if sheet is not None:
        colours = PrincipalColours.fit(found.distribution.mean, found.distribution.covariance())
        few = _open(options, min(options.pictured, options.images))
        names = sheet.add(name, model, _batches(few, options, f"{name}: pictures"), colours)
        row["pictures"] = {"explained_variance": colours.explained, "files": names}
    return row, images


def _open(options: Any, limit: int) -> ImageSet:
    return ImageSet(options.data, limit=limit, size=options.size)


def _batches(images: ImageSet, options: Any, title: str) -> Iterator[Batch]:
    """Under a progress bar."""
    yield from batches(tqdm(images, desc=title, total=len(images), unit="image", disable=None), options.batch)


def _report(rows: list[Row], images: ImageSet, sheet: Sheet | None, options: Any) -> None:
    """Files first: a broken pipe must not cost them."""
    picture = None if sheet is None else sheet.save()
    if options.json is not None:
        apart = ("json", "pictures", "vae", "data", "device", "batch", "pictured")
        settings = {key: value for key, value in options.as_dict().items() if key not in apart}
        settings |= {"vae": [row["vae"] for row in rows], "data": images.name, "images_digest": images.digest}
        skipped = [{"image": image, "reason": reason} for image, reason in images.skipped.rows]
        write_results(options.json, "latents", settings, rows, torch.device(options.device), skipped=skipped)
    print(comparison(rows))
    for row in rows:
        print("\n" + channel_table(row))
    if images.skipped.rows:
        print("\n" + images.skipped.summary())
    if picture is not None:
        columns = ["original", *(row["vae"] for row in rows)]
        print(f"\n{picture}: a row for each image; columns: {', '.join(columns)}")
