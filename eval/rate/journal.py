"""What a run has measured so far, on disk line by line, so that the same command again goes on where it stopped.

Beside the results file NAME.json:

    NAME.images.jsonl   the rows, as `eval.rows` says, each added when it is measured
    NAME.run.jsonl      first line: what they were measured with; then id and hash of each image

A line that a kill cut short is dropped. Codecs and qualities may be added to a run; whatever a row depends on may not
change: then the run is refused.
"""

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.images import NamedImage, pixel_hash
from eval.rate.codec import RateError
from eval.rows import ImageRow, read_rows, row_line, rows_path
from latentcodec.aside import written_aside

Key = tuple[str, str, str]
"""Image, codec, setting."""


def run_path(results: str | Path) -> Path:
    """Where a run says what it measures with."""
    return Path(results).with_suffix(".run.jsonl")


class Journal:
    """Rows of a run, old and new.

    Args:
        results: the results file NAME.json; None: rows are kept in memory only.
        settings: what all rows depend on, with JSON types.
        codecs: {codec: what its rows depend on}.

    Raises:
        RateError: there are rows that were measured otherwise, or another process adds rows right now.
        RowsError: a file that does not hold rows.
    """

    def __init__(self, results: str | Path | None, settings: dict[str, Any], codecs: dict[str, Any]) -> None:
        self.rows: list[ImageRow] = []
        self.settings, self.codecs = settings, codecs
        self._hashes: dict[str, str] = {}
        self._rows_path = None if results is None else rows_path(results)
        self._run_path = None if results is None else run_path(results)
        if self._rows_path is not None and self._run_path is not None:
            self._rows_path.parent.mkdir(parents=True, exist_ok=True)
            self._rows_file = self._rows_path.open("ab")
            try:
                self._lock()
                self._read(self._rows_path, self._run_path)
                self._write_head(self._run_path)
                self._run_file = self._run_path.open("a", encoding="utf-8")
            except BaseException:
                self._rows_file.close()
                raise
        self.done: set[Key] = {_key(row) for row in self.rows}

    def check_image(self, image: NamedImage) -> None:
        """Remember an image that rows will be about.

        Raises:
            RateError: there are rows about another image of this id.
        """
        found = pixel_hash(image.pixels)
        known = self._hashes.setdefault(image.id, found)
        if known != found:
            raise RateError(
                f"{self._run_path}: its rows about {image.id} are about other pixels; give the same images, or another --json"
            )
        if self._run_path is not None and image.id not in self._written:
            self._written.add(image.id)
            self._run_file.write(_image_line(image.id, found))
            self._run_file.flush()

    def add(self, row: ImageRow) -> None:
        """Take a row, and write it before anything else happens."""
        self.rows.append(row)
        self.done.add(_key(row))
        if self._rows_path is not None:
            self._rows_file.write(row_line(row).encode())
            self._rows_file.flush()

    def close(self) -> None:
        """Let other processes have the files."""
        if self._rows_path is not None:
            self._rows_file.close()
            self._run_file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._rows_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RateError(f"{self._rows_path}: another run adds rows to it; wait, or name another --json") from error

    def _read(self, rows: Path, run: Path) -> None:
        _drop_torn_line(rows)
        self.rows = read_rows(rows)
        if not run.exists():
            if self.rows:
                raise RateError(
                    f"{rows}: there are rows, but no {run.name} that says what they were measured with; "
                    "delete them, or name another --json"
                )
            return
        head, images = _parse(run)
        self._hashes = images
        for name, old, new in (
            *_differences(head["settings"], self.settings),
            *((f"codec {name}: {what}", old, new) for name, what, old, new in self._changed_codecs(head["codecs"])),
        ):
            raise RateError(
                f"{run}: its rows were measured with another {name}: {old}, now {new}; "
                "give the same again, or name another --json"
            )
        self.codecs = {**head["codecs"], **self.codecs}

    def _changed_codecs(self, known: dict[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
        for name in (name for name in self.codecs if name in known):
            for what, old, new in _differences(known[name], self.codecs[name]):
                yield name, what, old, new

    def _write_head(self, run: Path) -> None:
        self._written = set(self._hashes)
        with written_aside(run) as aside, aside.open("w", encoding="utf-8") as file:
            file.write(json.dumps({"settings": self.settings, "codecs": self.codecs}, ensure_ascii=False) + "\n")
            file.writelines(_image_line(id, found) for id, found in self._hashes.items())


def _key(row: ImageRow) -> Key:
    return row.image, row.codec, row.setting


def _image_line(id: str, found: str) -> str:
    return json.dumps({"image": id, "pixels": found}, ensure_ascii=False) + "\n"


def _parse(run: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The first line, and {image: hash}; a torn last line is left out."""
    lines = run.read_text("utf-8").split("\n")[:-1]
    try:
        head, *images = [json.loads(line) for line in lines]
        return {"settings": head["settings"], "codecs": head["codecs"]}, {row["image"]: row["pixels"] for row in images}
    except (ValueError, KeyError, TypeError) as error:
        raise RateError(
            f"{run}: it is no file of a run ({error}); delete it and its rows, or name another --json"
        ) from error


def _drop_torn_line(path: Path) -> None:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, old and new value of what differs."""
    new = json.loads(json.dumps(new))  # as it comes back from disk: lists for tuples
    for name in [*old, *(name for name in new if name not in old)]:
        before, now = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from ((f"{name} {part}", *values) for part, *values in _differences(before, now))
        elif before != now:
            yield name, before, now
