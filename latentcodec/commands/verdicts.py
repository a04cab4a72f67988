"""What a detector says of an image, for people, scripts and eyes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from latentcodec.anomaly.detector import Verdict
from latentcodec.anomaly.heat import heat_over, hottest_box
from latentcodec.images.save import save_png


def as_row(name: str, pixels: UInt8[np.ndarray, "height width 3"], verdict: Verdict) -> dict[str, Any]:
    """JSON types; `box` is top, left, height, width in pixels of the image, or None."""
    box = hottest_box(verdict.heat, *pixels.shape[:2])
    return {
        "image": name, "score": verdict.score, "p_value": verdict.p_value, "anomalous": verdict.anomalous,
        "terms": verdict.terms, "box": None if box is None else list(box), "size": list(pixels.shape[:2]),
    }  # fmt: skip


def write_verdict(
    row: dict[str, Any], pixels: UInt8[np.ndarray, "height width 3"], verdict: Verdict, folder: Path
) -> None:
    """The heat map and the row, named after the image."""
    save_png(heat_over(pixels, verdict.heat), folder / f"{row['image']}.heat.png")
    (folder / f"{row['image']}.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
