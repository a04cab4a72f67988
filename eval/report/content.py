"""Everything that the page says, with JSON types: what its scripts draw tables and plots from."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eval.latents.table import figures
from eval.report.benchmark import Choice, Json, benchmark_content, benchmarks
from eval.report.inputs import ReportError, ResultFile
from eval.report.pictures import LEVELS_ROOT, Gallery
from eval.report.wording import describe_metric
from latentcodec import __version__
from latentcodec.images.decode import decode_image


def page_content(files: Sequence[ResultFile], gallery: Gallery, choice: Choice) -> Json:
    """The page's content but for its pictures, which go to `gallery`; `pictures` says of which kind they are.

    Raises:
        ReportError: a file lacks what results of its kind have; or see `eval.report.benchmark`.
    """
    missing: list[str] = []
    with _named(files, "reconstruct", "rate"):
        of_images = benchmarks([file for file in files if file.kind in ("reconstruct", "rate")])
        sets = [benchmark_content(benchmark, gallery, choice, missing) for benchmark in of_images]
    with _named(files, "latents"):
        latents = [_latents(file, gallery, choice, missing) for file in files if file.kind == "latents"]
    with _named(files, "speed"):
        speed = _speed([file for file in files if file.kind == "speed"])
    other = [_plain(file) for file in files if file.kind not in ("reconstruct", "rate", "latents", "speed")]
    names = dict.fromkeys(
        metric
        for part in sets
        for metrics in [part["rows"]["metrics"], *(summary["metrics"] for summary in part["summaries"])]
        for metric in metrics
    )
    return {
        "version": __version__,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "subtitle": ", ".join(file.name for file in files),
        "metrics": {name: describe_metric(name) for name in names},
        "sets": sets,
        "latents": latents,
        "speed": speed,
        "other": other,
        "results": [_provenance(file) for file in files],
        "missing": missing,
        "pictures": {"levels_root": LEVELS_ROOT},
    }


@contextmanager
def _named(files: Sequence[ResultFile], *kinds: str) -> Iterator[None]:
    """Errors about a file that is not of the shape that it should have, with its name."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        names = ", ".join(str(file.path) for file in files if file.kind in kinds)
        raise ReportError(
            f"{names}: expected results as this version of `python -m eval {' or '.join(kinds)}` writes them, "
            f"found something else ({type(error).__name__}: {error}); measure again"
        ) from error


def _latents(file: ResultFile, gallery: Gallery, choice: Choice, missing: list[str]) -> Json:
    rows, settings = file.record["rows"], file.record["settings"]
    return {
        "title": file.name,
        "protocol": (
            f"{rows[0]['images']} images of {settings['data']}, {settings['size']} x {settings['size']} pixels; statistics of "
            f"the posterior's mean; {settings['decoded']} images decoded after each disturbance"
        ),
        "table": [{"title": title, "lines": [[label, *values] for label, values in lines]} for title, lines in figures(rows)],
        "rows": [
            {
                **{key: row[key] for key in ("vae", "per_channel", "correlation", "spectrum", "noise", "cut")},
                "explained": row.get("pictures", {}).get("explained_variance"),
                "pictures": _latent_pictures(row, file.path.parent, gallery, choice, missing),
            }
            for row in rows
        ],
    }  # fmt: skip


def _latent_pictures(row: Json, folder: Path, gallery: Gallery, choice: Choice, missing: list[str]) -> list[Json]:
    """Originals may be recompressed; the squares of latents may not."""
    found = []
    for names in row.get("pictures", {}).get("files", [])[: choice.images]:
        original, latents = folder / names["original"], folder / names["latents"]
        absent = [
            name for name, path in ((names["original"], original), (names["latents"], latents)) if not path.is_file()
        ]
        missing += absent
        if not absent:
            pixels = decode_image(latents)[:: row["factor"], :: row["factor"]]
            numbers = {"original": gallery.add_photo(original), "latents": gallery.add_exact(pixels)}
            found.append({"image": names["image"], **numbers})
    return found


def _plain(file: ResultFile) -> Json:
    """Rows as they are: a list of records, or records by name."""
    rows = file.record["rows"]
    if isinstance(rows, dict):
        rows = [{"name": name, **(row if isinstance(row, dict) else {"value": row})} for name, row in rows.items()]
    return {
        "title": file.name,
        "protocol": _sentence(file.record),
        "rows": [_flat(row) for row in rows],
    }


def _flat(row: Any) -> Json:
    """Nested records as `outer inner`."""
    if not isinstance(row, dict):
        return {"value": row}
    flat: Json = {}
    for key, value in row.items():
        flat |= (
            {f"{key} {inner}": found for inner, found in _flat(value).items()}
            if isinstance(value, dict)
            else {key: value}
        )
    return flat


def _speed(files: Sequence[ResultFile]) -> list[Json]:
    """A table for each machine: the rows of all files that were measured there, whichever command measured them."""
    machines: dict[str, list[ResultFile]] = {}
    for file in files:
        machines.setdefault(_sentence(file.record), []).append(file)
    return [
        {
            "title": machine,
            "protocol": ". ".join([machine, *dict.fromkeys(_peaks(file) for file in of), _versions(of)]),
            "rows": [row for file in of for row in file.record["rows"]],
        }
        for machine, of in machines.items()
    ]


def _peaks(file: ResultFile) -> str:
    """The rates that shares are of."""
    peaks = file.record["settings"]["matrix_peak"]
    rates = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in peaks.items())
    return f"Matrix peak in {file.name}: {rates} Tera-operations/s"


def _versions(files: Sequence[ResultFile]) -> str:
    """Of what computes."""
    used = ("torch", "diffusers", "accelerate")
    found = [(name, file.record["versions"].get(name)) for name in used for file in files]
    return ", ".join(f"{name} {version}" for name, version in dict.fromkeys(found) if version is not None)


def _sentence(record: Json) -> str:
    threads = record.get("threads")
    return f"{record['device']}{'' if threads is None else f'; {threads} threads'}"


def _provenance(file: ResultFile) -> Json:
    record = file.record
    return {
        "name": file.name,
        "file": os.fspath(file.path.name),
        "kind": file.kind,
        "sha256": file.sha256,
        "settings": record.get("settings", record.get("config", {})),
        "skipped": record.get("skipped", []),
        "versions": record.get("versions", {}),
        **{key: record.get(key) for key in ("device", "threads", "python", "commit", "time")},
    }
