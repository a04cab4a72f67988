"""`python -m eval report RESULTS... -o page.html`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jsonargparse.typing import PositiveFloat

from eval.report.benchmark import Choice, Json
from eval.report.content import page_content
from eval.report.inputs import read_results
from eval.report.pictures import Gallery
from eval.report.writer import page
from latentcodec.arguments import Parser
from latentcodec.aside import written_aside

TITLE = "Evaluation"
BUDGET = 40_000_000
"""Bytes of a page."""


@dataclass(frozen=True)
class Written:
    """What a page holds."""

    bytes: int
    results: int
    pictures: int
    missing: list[str]
    """Pictures that rows name and that are not there."""
    note: str
    """How the pictures were stored."""


def write_report(
    results: Sequence[str | Path], output: str | Path, *, title: str = TITLE, budget: int = BUDGET,
    choice: Choice | None = None,
) -> Written:  # fmt: skip
    """Write one page about results files, or folders of them; whole or not at all.

    Args:
        budget: bytes that the page may have.
        choice: whose pictures it shows; None: see `Choice`.

    Raises:
        ReportError: what is no results file, or pictures that do not fit.
        RowsError, BrokenImageError: rows or pictures that cannot be read.
    """
    gallery = Gallery()
    files = read_results(results)
    content = page_content(files, gallery, choice or Choice())
    rest = len(page(title, _with_note(content, " " * 400), []))
    encoded = gallery.encode(budget - rest)
    text = page(title, _with_note(content, encoded.note()), encoded.files)
    with written_aside(Path(output)) as aside:
        aside.write_bytes(text)
    return Written(len(text), len(files), len(encoded.files), content["missing"], encoded.note())


def _with_note(content: Json, note: str) -> Json:
    return {**content, "pictures": {**content["pictures"], "note": note}}


def main(arguments: list[str]) -> None:
    """Write the page, and say what it holds.

    Raises:
        ReportError, RowsError, BrokenImageError: see `write_report`.
    """
    parser = _parser()
    options = parser.parse(arguments)
    try:
        choice = Choice(options.images, tuple(options.bpp))
    except ValueError as error:
        parser.error(f"--{error}")
    written = write_report(
        options.results, options.output, title=options.title, budget=round(options.budget * 1e6), choice=choice
    )
    for name in written.missing:
        print(f"note: {name} is not there; the page does without it")
    print(written.note)
    print(
        f"{os.fspath(options.output)}: {written.bytes / 1e6:.1f} MB, {written.results} results, {written.pictures} pictures"
    )


def _parser() -> Parser:
    parser = Parser(
        prog="eval report",
        description="One page about any results: plots, tables, pictures to compare. It opens from disk and loads nothing.",
    )
    add = parser.add_argument
    add("results", nargs="+", type=str, help="NAME.json of other eval commands, or folders with them")
    add("-o", "--output", type=str, required=True, help="HTML file to write")
    add("--title", type=str, default=TITLE)
    add("--images", type=int, default=Choice.images, help="show the pictures of at most so many images")
    add(
        "--bpp",
        type=list[float],
        default=list(Choice.bpp),
        help="of codecs that write files: pictures nearest to these",
    )
    add(
        "--budget",
        type=PositiveFloat,
        default=BUDGET / 1e6,
        help="MB that the page may have; pictures are recompressed for it",
    )
    return parser
