"""One row for each image, codec and setting: the shape that every benchmark over images stores, and its JSONL file."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from latentcodec.aside import written_aside


@dataclass(frozen=True)
class ImageRow:
    """What one codec made of one image with one setting."""

    image: str
    """Its id in the source."""
    codec: str
    """Its name in the run."""
    setting: str
    """How it was used: `mean` or `sample` of a VAE's posterior; the quality or step of a codec that writes bytes."""
    width: int
    height: int
    """In pixels."""
    bytes: int | None
    """Of the compressed file; None where there is none."""
    encode_seconds: float | None
    decode_seconds: float | None
    """Of this image alone, without reading and writing files; None where not timed."""
    metrics: dict[str, float]
    """By name, as in `eval.metrics.METRICS`. A metric that cannot take the image, because it is too small, is absent."""
    picture: str | None
    """PNG of the reconstruction, relative to the folder of the JSONL file; None where none was saved."""


class RowsError(ValueError):
    """A file that does not hold rows; the message names the line."""


def rows_path(results: str | Path) -> Path:
    """Where the rows that belong to a results file are: `NAME.images.jsonl` beside `NAME.json`."""
    return Path(results).with_suffix(".images.jsonl")


def write_rows(path: str | Path, rows: Iterable[ImageRow]) -> None:
    """Write one JSON object a line; whole or not at all.

    Infinite scores, such as the PSNR of identical images, are the strings "inf" and "-inf", since JSON has no number for
    them.

    Raises:
        ValueError: a score is NaN.
    """
    with written_aside(Path(path)) as aside, aside.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(row_line(row))


def row_line(row: ImageRow) -> str:
    """A row as its line of the file, line end included.

    Raises:
        ValueError: a score is NaN.
    """
    scores = {name: finite_or_text(score) for name, score in row.metrics.items()}
    values = {**asdict(row), "metrics": scores}
    return json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"


def read_rows(path: str | Path) -> list[ImageRow]:
    """The rows of a file, in its order.

    Raises:
        RowsError: a line is no row; names the file and the line.
        OSError: the file cannot be read.
    """
    names = {field.name for field in fields(ImageRow)}
    rows = []
    text = Path(path).read_text("utf-8")
    lines = text.removesuffix("\n").split("\n") if text else []  # `splitlines` also cuts at U+2028, which ids may hold
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise RowsError(f"{path}, line {number}: expected one JSON object, found {line[:80]!r}: {error}") from error
        if not isinstance(values, dict) or set(values) != names or not isinstance(values["metrics"], dict):
            raise RowsError(f"{path}, line {number}: expected the fields {sorted(names)}, found {line[:80]!r}")
        scores = {name: float(score) for name, score in values["metrics"].items()}
        rows.append(ImageRow(**{**values, "metrics": scores}))
    return rows


def finite_or_text(value: float) -> float | str:
    """A number as JSON can hold it: infinities become "inf" and "-inf", which `float` reads back.

    Raises:
        ValueError: NaN.
    """
    if math.isnan(value):
        raise ValueError("a score is NaN, which no file of results may hold; look at that image first")
    return value if math.isfinite(value) else str(value)
