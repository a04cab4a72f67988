"""`python -m eval symbols VAE --data DIR`: what each idea of the entropy coder buys, and how fast it is."""

from dataclasses import asdict
from typing import Any

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from tqdm import tqdm

from eval.bootstrap import Bootstrap
from eval.exact import exact_float32
from eval.images import ImageSet, source_name
from eval.results import write_results
from eval.symbols.general import JXL_EFFORT, ZSTD_LEVEL, SymbolsError
from eval.symbols.measure import METHODS, Row, code, summarise
from eval.symbols.table import lines
from latentcodec.arguments import Parser
from latentcodec.bitstream.codec import EFFORTS, ImageCodec
from latentcodec.bitstream.quality import QUALITIES
from latentcodec.memory import freed_memory_kept
from latentcodec.precision import SUPPORTED

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in SUPPORTED}


def main(arguments: list[str]) -> None:
    """Measure, print and, with --json FILE, save. Wrong usage exits with 2.

    Raises:
        SymbolsError, SourceError, VAELoadError, BitstreamError, RateError.
    """
    parser = _parser()
    options = parser.parse(arguments)
    if options.dtype not in _DTYPES:
        parser.error(f"--dtype: expected {' or '.join(_DTYPES)}, found {options.dtype}")
    if options.effort not in EFFORTS:
        parser.error(f"--effort: expected {' or '.join(map(str, EFFORTS))}, found {options.effort}")
    if options.rounds < 2:
        parser.error(f"--rounds: expected at least 2, found {options.rounds}")
    qualities = _qualities(options.qualities)
    codec = ImageCodec.from_pretrained(
        options.vae, dtype=_DTYPES[options.dtype], device=options.device, scaling_factor=1.0
    )
    images = ImageSet(options.data, limit=options.count, size=options.size)
    rows = _measure(codec, images, qualities, options)
    settings = _settings(codec, images, rows, options)
    print(f"{settings['data']['images']} images of {images.name}; {codec.model.context.channels} channels")
    print(
        "integers are "
        + ("the nearest" if options.effort == 0 else "chosen by rate and distortion, which suits the context model")
    )
    print("\n".join(lines(rows)))
    if len(images.skipped):
        print(f"\nnote: {images.skipped.summary()}")
    if options.json is not None:
        write_results(
            options.json, "symbols", settings, [asdict(row) for row in rows], torch.device(options.device),
            skipped=[{"image": id, "reason": reason} for id, reason in images.skipped.rows],
        )  # fmt: skip


def _parser() -> Parser:
    parser = Parser(
        prog="eval symbols",
        description="The same integers of the same images by static tables, context model, lossless JPEG XL and zstd; speed of "
        "the entropy coder; the network's share of the time to compress.",
    )
    add = parser.add_argument
    add("vae", type=str, help="folder or file of a VAE that `latentcodec prepare-bitstream` has prepared")
    add("--data", type=str, required=True, help="images: a folder, .tar, .parquet, hf:owner/name[:split]")
    add("--count", type=PositiveInt | None, default=None, help="only the first so many")
    add("--size", type=PositiveInt | None, default=None, help="scale the short side to it and cut a square; else whole")
    add("--qualities", type=str, default="35,50,65,80", help="joined by commas")
    add(
        "--effort",
        type=NonNegativeInt,
        default=0,
        help="0: nearest integers, fair to all; others choose as the context model likes",
    )
    add("--rounds", type=PositiveInt, default=2, help="of each timing, of which the median counts; at least 2")
    add("--dtype", type=str, default="float32", help=f"of the VAE: {', '.join(_DTYPES)}")
    add("--device", type=str, default="cuda" if torch.cuda.is_available() else "cpu")
    add("--json", type=str | None, default=None, help="file to write")
    return parser


def _qualities(text: str) -> list[float]:
    try:
        found = [float(quality) for quality in text.split(",")]
    except ValueError as error:
        raise SymbolsError(f"qualities: expected numbers joined by commas, found {text}") from error
    if wrong := [quality for quality in found if not 1 <= quality <= QUALITIES]:
        raise SymbolsError(f"qualities: expected 1 ... {QUALITIES}, found {wrong[0]:g}")
    return found


def _measure(codec: ImageCodec, images: ImageSet, qualities: list[float], options: Any) -> list[Row]:
    coded: dict[float, list[Any]] = {quality: [] for quality in qualities}
    with exact_float32(), freed_memory_kept():
        for image in tqdm(images, unit="image", disable=None):
            if not any(coded.values()):
                codec.compress(image.pixels, effort=options.effort)  # what is loaded and tuned once belongs to no image
            for quality in qualities:
                coded[quality].append(code(codec, image, quality, effort=options.effort, rounds=options.rounds))
    return [summarise(quality, of, Bootstrap()) for quality, of in coded.items()]


def _settings(codec: ImageCodec, images: ImageSet, rows: list[Row], options: Any) -> dict[str, Any]:
    """Everything that the figures depend on, with JSON types and without paths."""
    return {
        "vae": {
            "name": source_name(options.vae), "fingerprint": codec.codec.fingerprint,
            "bitstream": f"sha256:{codec.model.hash()}", "channels": codec.model.context.channels,
        },
        "data": {"name": images.name, "images": rows[0].images, "skipped": len(images.skipped), "digest": images.digest},
        "size": options.size, "effort": options.effort, "rounds": options.rounds, "dtype": options.dtype,
        "methods": METHODS, "jxl_effort": JXL_EFFORT, "zstd_level": ZSTD_LEVEL, "bootstrap": vars(Bootstrap()),
    }  # fmt: skip
