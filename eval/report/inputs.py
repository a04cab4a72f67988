"""The files that a page is made of: results of any `python -m eval` command, and the rows that lie beside them."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.rows import ImageRow, read_rows, rows_path


class ReportError(ValueError):
    """A page that cannot be made; the message names the file."""


@dataclass(frozen=True, eq=False)
class ResultFile:
    """One measurement."""

    path: Path
    sha256: str
    """Of the file, in hexadecimal."""
    record: dict[str, Any]
    """What it holds."""
    rows: tuple[ImageRow, ...]
    """Of every image; empty where the command makes none."""

    @property
    def kind(self) -> str:
        """The command that measured; empty if the file does not say."""
        return str(self.record.get("kind", ""))

    @property
    def name(self) -> str:
        """Of the file, without its ending."""
        return self.path.stem


def read_results(paths: Iterable[str | Path]) -> list[ResultFile]:
    """Files as they are, folders as the results files in them, by name.

    Raises:
        ReportError: no results; a file that holds none, or is given twice; names it.
        RowsError: see `eval.rows.read_rows`.
    """
    files = [file for path in map(Path, paths) for file in (_in_folder(path) if path.is_dir() else [path])]
    twice = [file for index, file in enumerate(files) if file.resolve() in {other.resolve() for other in files[:index]}]
    if twice:
        raise ReportError(f"{twice[0]}: expected each file once, found it twice")
    if not files:
        raise ReportError("results: expected at least one file")
    return [_read(file) for file in files]


def _in_folder(folder: Path) -> list[Path]:
    """The JSON files there that are results; others, such as a network's config, are no concern of ours."""
    found = [file for file in sorted(folder.glob("*.json")) if _is_result(_parsed(file))]
    if not found:
        raise ReportError(
            f"{folder}: expected results files (NAME.json, as `python -m eval ... --json` writes), found none"
        )
    return found


def _read(path: Path) -> ResultFile:
    record = _parsed(path)
    if not _is_result(record):
        raise ReportError(
            f"{path}: expected what `python -m eval ... --json` writes: an object with `rows` and `device`"
        )
    beside = rows_path(path)
    rows = read_rows(beside) if beside.is_file() else []
    return ResultFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), record, tuple(rows))


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:  # ValueError: neither UTF-8 nor JSON
        raise ReportError(f"{path}: cannot be read as JSON: {error}") from error


def _is_result(record: Any) -> bool:
    """Every results file says what it measured and, by `eval.provenance`, on what device."""
    return isinstance(record, dict) and isinstance(record.get("rows"), list | dict) and "device" in record
