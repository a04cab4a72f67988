"""One comparison as a record of the results file and as a line of the table."""

from dataclasses import asdict
from typing import Any

import torch

from eval.provenance import PACKAGES, device_name, installed_version
from eval.speed.sides import Comparison

WORDS = {
    "network_share": ("network {:.0%}", 1.0),
    "coder_share": ("entropy coder {:.1%}", 1.0),
    "symbols_per_second": ("{:.2f} million symbols/s", 1e-6),
    "bytes_ratio": ("files {:.0%} of the plain way's", 1.0),
}
"""What a line says of the parts of a row, and in which unit."""

HEADINGS = "".join(
    (
        f"{'':30}{'size':>6}{'type':>10}{'speed-up':>10}{'from':>7}{'to':>7}",
        f"{'img/s':>9}{'plain':>9}{'peak':>7}{'GiB':>7}{'plain':>7}",
    )
)


def record(
    row: str, side: int, dtype: torch.dtype, images: int, found: Comparison, operations: float, peak: float,
    parts: dict[str, float] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """With JSON types.

    Args:
        row: what was done.
        side: of the square images in pixels.
        dtype: of our network.
        images: in a round.
        operations: for one image, two for a multiply-accumulate; of the networks alone.
        peak: operations a second of `eval.speed.matrix`, in that type.
        parts: further figures of our side, by the names of `WORDS`.
    """
    return {
        "row": row, "side": side, "dtype": str(dtype).removeprefix("torch."), "images": images, **asdict(found),
        "operations_per_image": operations,
        "share_of_matrix_peak": found.images_per_second.median * operations / peak, **(parts or {}),
    }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    """A record under `HEADINGS`; a second line for its parts."""
    speedup = row["speedup"]
    text = (
        f"{row['row']:30}{row['side']:6}{row['dtype']:>10}{speedup['median']:10.2f}{speedup['low']:7.2f}"
        f"{speedup['high']:7.2f}{row['images_per_second']['median']:9.3f}"
        f"{row['plain_images_per_second']['median']:9.3f}{row['share_of_matrix_peak']:7.0%}"
        f"{row['peak_memory'] / 2**30:7.2f}{row['plain_peak_memory'] / 2**30:7.2f}"
    )
    parts = [words.format(row[name] * unit) for name, (words, unit) in WORDS.items() if name in row]
    return f"{text}\n    {', '.join(parts)}" if parts else text


def machine(device: torch.device, peaks: dict[str, float]) -> str:
    """What all rows were measured on and with, and the rates that their shares are of."""
    rates = ", ".join(f"{name} {rate / 1e12:.3g} Tera-operations/s" for name, rate in peaks.items())
    versions = ", ".join(f"{name} {found}" for name in PACKAGES if (found := installed_version(name)) is not None)
    return f"{device_name(device)}; {torch.get_num_threads()} threads; matrix peak: {rates}\n{versions}"
