"""The images that could not be read, so that leaving them out is never silent."""

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec


class SkippedImages:
    """Collects id and reason of every image left out. Safe from several threads; can be pickled."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def add(self, id: str, reason: str) -> None:
        with self._lock:
            self._rows.append((id, reason))

    def extend(self, other: "SkippedImages") -> None:
        """Adds what another process or part of the run has left out."""
        rows = other.rows
        with self._lock:
            self._rows.extend(rows)

    @property
    def rows(self) -> list[tuple[str, str]]:
        """(id, reason) in the order they were added."""
        with self._lock:
            return list(self._rows)

    @property
    def counts(self) -> dict[str, int]:
        """Images by kind of reason, most frequent first; the kind is the part before ``": "``."""
        kinds = Counter(reason.partition(": ")[0] for _, reason in self.rows)
        return dict(sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0])))

    def __len__(self) -> int:
        return len(self._rows)

    def to_jsonl(self) -> bytes:
        """One JSON object a line, ``{"id": ..., "reason": ...}``."""
        lines = [json.dumps({"id": id, "reason": reason}) + "\n" for id, reason in self.rows]
        return "".join(lines).encode("ascii")

    def write(self, path: str | Path) -> None:
        """Writes `to_jsonl` to a path or fsspec URL, replacing what is there."""
        with fsspec.open(str(path), "wb") as file:
            file.write(self.to_jsonl())

    def summary(self, total: int | None = None) -> str:
        """One or two sentences for a person: how many, why, and the first of them."""
        rows = self.rows
        if not rows:
            return "No image was skipped."
        of_total = f" of {total:,}" if total is not None else ""
        reasons = ", ".join(f"{kind} ({count:,})" for kind, count in self.counts.items())
        were = "image was" if len(rows) == 1 and total is None else "images were"
        return f"{len(rows):,}{of_total} {were} skipped: {reasons}. The first was {rows[0][0]} ({rows[0][1]})."

    def __getstate__(self) -> dict[str, Any]:
        return {"_rows": self.rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._rows = state["_rows"]
        self._lock = threading.Lock()
