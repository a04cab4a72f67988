"""What the commands that work through many files print at their end."""

import json
from typing import Any

from latentcodec.codec import LatentCodec
from latentcodec.commands import CommandError
from latentcodec.images.skipped import SkippedImages

Row = dict[str, Any]
"""What is told of one file, with JSON types."""


def as_json(codec: LatentCodec, rows: list[Row], skipped: SkippedImages, **more: Any) -> str:
    """One JSON object: the VAE's `fingerprint`, the `dtype` that was computed in, `images`, `skipped`, and `more`."""
    report = {
        "fingerprint": codec.fingerprint,
        "dtype": str(codec.dtype).removeprefix("torch."),
        "images": rows,
        "skipped": [{"image": name, "reason": reason} for name, reason in skipped.rows],
        **more,
    }
    return json.dumps(report, indent=2, ensure_ascii=False)


def tiled_notes(rows: list[Row]) -> list[str]:
    """A line for each image that was not computed whole."""
    return [f"note: {row['image']} was computed in {row['method']}" for row in rows if row["method"] != "whole"]


def require_none(skipped: SkippedImages, total: int) -> None:
    """Raise CommandError if something was skipped, naming each with its reason."""
    if skipped.rows:
        listed = "".join(f"\n  {name}: {reason}" for name, reason in skipped.rows)
        raise CommandError(f"{len(skipped)} of {total} could not be used and were skipped:{listed}")
