"""The one JSON file of a measurement: what was asked, what was found, where and with what."""

import json
from pathlib import Path
from typing import Any

import torch

from eval.provenance import PACKAGES, provenance
from latentcodec.aside import written_aside

METRIC_PACKAGES = ("scikit-image", "pytorch-msssim", "dists-pytorch", "torch-fidelity")
"""Reference implementations of metrics, beside what `provenance` names anyway."""


def write_results(
    path: str | Path, kind: str, settings: dict[str, Any], rows: list[dict[str, Any]], device: torch.device, **more: Any
) -> None:
    """Write `{"kind", "settings", "rows", ...}` with `provenance` as strict JSON; whole or not at all.

    Args:
        kind: the command that measured, such as `reconstruct`.
        settings: everything that the figures depend on; names of files and folders only, never a machine's paths.
        rows: the figures.
        device: where it was measured.
        **more: further keys.

    Raises:
        ValueError: a number is NaN or infinite; see `eval.rows.finite_or_text`.
    """
    record = {"kind": kind, "settings": settings, "rows": rows, **more}
    record |= provenance(device, packages=(*PACKAGES, *METRIC_PACKAGES))
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    with written_aside(Path(path)) as aside:
        aside.write_text(text + "\n", encoding="utf-8")
