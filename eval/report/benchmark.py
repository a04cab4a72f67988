"""The part of a page about images: results on the same images together, whichever command made them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.metrics import METRICS
from eval.pictures import original_of
from eval.rate.published import curves_for
from eval.reconstruct.protocol import protocol_lines
from eval.report.inputs import ReportError, ResultFile
from eval.report.pictures import Gallery, error_map, thumbnail
from eval.rows import ImageRow, finite_or_text
from latentcodec.images.decode import decode_image

Json = dict[str, Any]
Variant = tuple[str, str]
"""A codec and its setting."""


@dataclass(frozen=True)
class Choice:
    """Which pictures a page shows: of each codec without files its first setting, of the others those nearest to `bpp`."""

    images: int = 24
    """At most so many, in the order of the rows: `eval reconstruct` has the worst first."""
    bpp: tuple[float, ...] = (0.25,)
    """Mean bits per pixel."""

    def __post_init__(self) -> None:
        if self.images < 0:
            raise ValueError(f"images: expected at least 0, found {self.images}")
        if any(not rate > 0 for rate in self.bpp):
            raise ValueError(f"bpp: expected rates above 0, found {', '.join(map(str, self.bpp))}")


@dataclass
class Benchmark:
    """Results on one set of images."""

    name: str
    """Of the set."""
    files: list[ResultFile] = field(default_factory=list)
    rows: list[ImageRow] = field(default_factory=list)
    """Of all files. A codec and setting that two of them have is told apart by the file's name."""
    folders: dict[str, Path] = field(default_factory=dict)
    """Picture -> the folder that it is relative to."""
    summaries: dict[Variant, Json] = field(default_factory=dict)

    def add(self, file: ResultFile) -> None:
        """Take its rows, those that its summary is about."""
        known = set(self.summaries)
        renamed: dict[str, str] = {}
        for summary in file.record["rows"]:
            codec, setting = summary["codec"], summary["setting"]
            if (codec, setting) in known:
                renamed[codec] = f"{codec} ({file.name})"
        for summary in file.record["rows"]:
            name = renamed.get(summary["codec"], summary["codec"])
            self.summaries[name, summary["setting"]] = {**summary, "codec": name}
        for row in file.rows:
            name = renamed.get(row.codec, row.codec)
            if (name, row.setting) in self.summaries:
                self.rows.append(ImageRow(**{**vars(row), "codec": name}))
                if row.picture is not None:
                    self.folders[row.picture] = file.path.parent
        self.files.append(file)


def benchmarks(files: Iterable[ResultFile]) -> list[Benchmark]:
    """Results of `reconstruct` and `rate`, those on the same images together."""
    found: dict[str, Benchmark] = {}
    for file in files:
        data = file.record["settings"]["data"]
        benchmark = found.setdefault(str(data["digest"]), Benchmark(data["name"]))
        benchmark.add(file)
    return list(found.values())


def benchmark_content(benchmark: Benchmark, gallery: Gallery, choice: Choice, missing: list[str]) -> Json:
    """What the page is told about it; its pictures go to `gallery`, and the names of those that are not there to
    `missing`.

    Raises:
        ReportError: a picture that is not of its image's size.
        BrokenImageError: a file that is no picture.
    """
    images = list({row.image: row for row in benchmark.rows}.values())
    numbers = {row.image: number for number, row in enumerate(images)}
    variants = list(dict.fromkeys([*benchmark.summaries, *((row.codec, row.setting) for row in benchmark.rows)]))
    codecs = list(dict.fromkeys(codec for codec, _ in variants))
    with_files = {(row.codec, row.setting) for row in benchmark.rows if row.bytes is not None}
    with_files |= {variant for variant, summary in benchmark.summaries.items() if summary.get("bpp") is not None}
    shown = _shown(benchmark, with_files, choice)
    pictured = _Pictures(benchmark, gallery, missing)
    pictures = pictured.add([row.image for row in images[: choice.images]], shown)
    names = list(dict.fromkeys(metric for row in benchmark.rows for metric in row.metrics))
    metrics = sorted(names, key=lambda name: list(METRICS).index(name) if name in METRICS else len(METRICS))
    records = [file.record for file in benchmark.files]
    return {
        "name": benchmark.name,
        "subtitle": _subtitle(benchmark, len(images), codecs),
        "protocol": list(_protocol(benchmark)),
        "notes": [note for record in records for note in record.get("notes", [])],
        "pictures_note": _pictures_note(shown, with_files, len(images), choice),
        "images": [
            {
                "id": row.image, "width": row.width, "height": row.height,
                "original": pictured.originals.get(row.image), "thumbnail": pictured.thumbnails.get(row.image),
            }
            for row in images
        ],
        "codecs": [
            {"name": codec, "kind": _kind(records, codec), "settings": sum(name == codec for name, _ in variants)}
            for codec in codecs
        ],
        "variants": [
            {"codec": codecs.index(codec), "setting": setting, "bytes": (codec, setting) in with_files}
            for codec, setting in variants
        ],
        "rows": _columns(benchmark.rows, numbers, {variant: n for n, variant in enumerate(variants)}, metrics, pictures),
        "summaries": [
            _summary(summary, variants.index(variant)) for variant, summary in benchmark.summaries.items()
        ],
        "differences": [row for record in records for row in record.get("differences", [])],
        "bd_rate": [row for record in records for row in record.get("bd_rates", [])],
        "agreements": [row for record in records for row in record.get("agreements", [])],
        "published": [table for record in records for table in record.get("published", [])],
        "published_curves": _published_curves(records),
    }  # fmt: skip


def _published_curves(records: Sequence[Json]) -> list[Json]:
    digests = {str(record["settings"]["data"].get("pixels_digest")) for record in records if record["kind"] == "rate"}
    return [vars(curve) for digest in digests for curve in curves_for(digest)]


def _subtitle(benchmark: Benchmark, images: int, codecs: Sequence[str]) -> str:
    of = "images" if images != 1 else "image"
    record = benchmark.files[0].record
    names = f"{', '.join(codecs[:8])}{', ...' if len(codecs) > 8 else ''}"
    return f"{images} {of} of {benchmark.name}; {names}. Measured {str(record['time'])[:10]} on {record['device']}."


def _protocol(benchmark: Benchmark) -> Iterator[str]:
    for file in benchmark.files:
        if file.kind == "reconstruct":
            yield from protocol_lines(file.record["settings"])
        elif file.kind == "rate":
            yield "bpp is of whole files; metrics on 8-bit RGB, means over images"


def _kind(records: Sequence[Json], codec: str) -> str | None:
    """What a codec of `eval rate` is, by any name."""
    for record in records:
        codecs = record["settings"].get("codecs")
        if isinstance(codecs, dict) and codec in codecs:
            return str(codecs[codec]["kind"])
    return None


def _summary(summary: Json, variant: int) -> Json:
    sets = summary.get("sets", {})
    metrics = dict(summary["metrics"])
    if "rfid" in sets:
        metrics["rfid"] = {"mean": sets["rfid"]["value"]}
    if "kid" in sets:
        metrics["kid"] = {"mean": sets["kid"]["mean"], "std": sets["kid"]["std"]}
    return {
        "variant": variant, "images": summary["images"], "bpp": summary.get("bpp"), "metrics": metrics,
        "encode": summary.get("encode_seconds"), "decode": summary.get("decode_seconds"),
    }  # fmt: skip


def _shown(benchmark: Benchmark, with_files: set[Variant], choice: Choice) -> list[Variant]:
    """Whose pictures are shown, by `Choice`."""
    rates: dict[Variant, list[float]] = {}
    for row in benchmark.rows:
        if row.picture is not None:
            rate = 0.0 if row.bytes is None else 8 * row.bytes / (row.width * row.height)
            rates.setdefault((row.codec, row.setting), []).append(rate)
    means = {variant: sum(values) / len(values) for variant, values in rates.items()}
    shown: list[Variant] = []
    for codec in dict.fromkeys(codec for codec, _ in means):
        own = [variant for variant in means if variant[0] == codec]
        plain = [variant for variant in own if variant not in with_files]
        shown += plain[:1]
        filed = [variant for variant in own if variant in with_files]
        shown += dict.fromkeys(
            min(filed, key=lambda variant, rate=rate: abs(means[variant] - rate))  # type: ignore[misc]
            for rate in choice.bpp
            if filed
        )
    return shown


def _pictures_note(shown: Sequence[Variant], with_files: set[Variant], images: int, choice: Choice) -> str:
    parts = []
    if any(variant in with_files for variant in shown):
        rates = " and ".join(f"{rate:g}" for rate in choice.bpp)
        parts.append(f"Of each codec that writes files, the setting whose mean is nearest to {rates} bits per pixel.")
    if images > choice.images:
        parts.append(f"The first {choice.images} of {images} images, in the order of the results.")
    return " ".join(parts)


class _Pictures:
    """Puts the pictures of images into a gallery, image by image."""

    def __init__(self, benchmark: Benchmark, gallery: Gallery, missing: list[str]) -> None:
        self._benchmark, self._gallery, self._missing = benchmark, gallery, missing
        self.originals: dict[str, int] = {}
        self.thumbnails: dict[str, str] = {}

    def add(self, images: Iterable[str], shown: Sequence[Variant]) -> dict[tuple[str, Variant], tuple[int, int | None]]:
        """(image, variant) -> numbers of its picture and of the map of its errors; None without the original."""
        rows = {(row.image, (row.codec, row.setting)): row for row in self._benchmark.rows}
        found: dict[tuple[str, Variant], tuple[int, int | None]] = {}
        for image in images:
            of_image = [row for variant in shown if (row := rows.get((image, variant))) and row.picture is not None]
            there = [row for row in of_image if self._is_there(row, str(row.picture))]
            if there:
                found |= self._add_image(image, there)
        return found

    def _is_there(self, row: ImageRow, picture: str) -> bool:
        if self._path(row, picture).is_file():
            return True
        self._missing.append(picture)
        return False

    def _path(self, row: ImageRow, picture: str) -> Path:
        return self._benchmark.folders[str(row.picture)] / picture

    def _add_image(self, image: str, rows: Sequence[ImageRow]) -> dict[tuple[str, Variant], tuple[int, int | None]]:
        candidates = dict.fromkeys(original_of(str(row.picture)) for row in rows)
        paths = [self._path(row, name) for row in rows for name in candidates]
        original = next((path for path in paths if path.is_file()), None)
        pixels = None
        if original is None:
            self._missing.append(next(iter(candidates)))
        else:
            pixels = decode_image(original)
            self.originals[image] = self._gallery.add_photo(original)
        found: dict[tuple[str, Variant], tuple[int, int | None]] = {}
        for row in rows:
            path = self._path(row, str(row.picture))
            picture = decode_image(path)
            if image not in self.thumbnails:
                self.thumbnails[image] = thumbnail(picture if pixels is None else pixels)
            if picture.shape != (row.height, row.width, 3) or (pixels is not None and pixels.shape != picture.shape):
                raise ReportError(
                    f"{path}: expected a picture of {row.width}x{row.height} like its original, found another"
                )
            difference = None if pixels is None else self._gallery.add_exact(error_map(pixels, picture))
            found[image, (row.codec, row.setting)] = (self._gallery.add_photo(path), difference)
        return found


def _columns(
    rows: Sequence[ImageRow],
    images: dict[str, int],
    variants: dict[Variant, int],
    metrics: Sequence[str],
    pictures: dict[tuple[str, Variant], tuple[int, int | None]],
) -> Json:
    """Rows as columns, which take a third of the room."""
    found = [pictures.get((row.image, (row.codec, row.setting)), (None, None)) for row in rows]
    return {
        "image": [images[row.image] for row in rows],
        "variant": [variants[row.codec, row.setting] for row in rows],
        "bytes": [row.bytes for row in rows],
        "encode": [_rounded(row.encode_seconds) for row in rows],
        "decode": [_rounded(row.decode_seconds) for row in rows],
        "metrics": {metric: [_rounded(row.metrics.get(metric)) for row in rows] for metric in metrics},
        "picture": [picture for picture, _ in found],
        "difference": [difference for _, difference in found],
    }


def _rounded(value: float | None) -> float | str | None:
    """Six digits: more than any table shows."""
    return None if value is None else finite_or_text(float(f"{value:.6g}"))
