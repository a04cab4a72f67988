"""What metrics are called on the page."""

from typing import Any

from eval.metrics import LOWER_IS_BETTER
from eval.reconstruct.table import DIGITS, UNITS, USUAL_DIGITS

_LABELS = {
    "psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS", "lpips_alex": "LPIPS (AlexNet)",
    "lpips_vgg": "LPIPS (VGG)", "dists": "DISTS", "rfid": "rFID", "kid": "KID",
}  # fmt: skip


def describe_metric(name: str) -> dict[str, Any]:
    """Its label, unit, digits after the point, and whether lower is better."""
    return {
        "label": _LABELS.get(name, name), "unit": UNITS.get(name, ""), "digits": DIGITS.get(name, USUAL_DIGITS),
        "lower": name in LOWER_IS_BETTER,
    }  # fmt: skip
