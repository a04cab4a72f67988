"""Results files as the commands write them, of small images, with names that try to break out of a page."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from stand_in_models import PoolingModel, pictures

from eval.bootstrap import Bootstrap
from eval.images import NamedImage, pixel_hash
from eval.latents.equivariance import transforms
from eval.latents.measure import Disturbances, batches, decode_disturbed, survey
from eval.latents.pictures import PrincipalColours, Sheet
from eval.latents.record import decoded_fields, survey_fields
from eval.metrics import psnr, ssim
from eval.pairing import Spread
from eval.pictures import PictureFolder
from eval.rate.curves import bd_rate, curve_of
from eval.rate.summary import summarise as summarise_rate
from eval.reconstruct.evaluate import Evaluation
from eval.reconstruct.published import published_tables
from eval.reconstruct.summary import differences, summarise
from eval.results import write_results
from eval.rows import ImageRow, rows_path, write_rows
from eval.speed import table
from eval.speed.sides import Comparison

HOSTILE_IMAGE = '"><img src=x onerror=alert(1)>'
HOSTILE_CODEC = "</script><script>document.title='owned'</script><!--"
HOSTILE_VAE = "<b>bold</b> & {{data}}"
SIDES = (96, 64)
QUALITIES = (10, 40, 80)
CPU = torch.device("cpu")
BOOTSTRAP = Bootstrap(resamples=50)


@dataclass(frozen=True)
class SmallResults:
    """Files, and what is in them."""

    folder: Path
    rate: Path
    reconstruct: Path
    latents: Path
    speed: Path
    images: list[NamedImage]
    rows: list[ImageRow]


def write_small_results(folder: Path, count: int = 3) -> SmallResults:
    """Results of `rate`, `reconstruct`, `latents` and `speed`, the first two on the same images, with pictures."""
    images = small_images(count)
    rate_rows = _rate(folder / "rate.json", images)
    plain_rows = write_reconstruct(folder / "reconstruct.json", images, {HOSTILE_VAE: 1.0, "blurred": 3.0})
    latents = write_latents(folder / "latents.json", images)
    speed = _speed(folder / "speed.json")
    return SmallResults(
        folder, folder / "rate.json", folder / "reconstruct.json", latents, speed, images, rate_rows + plain_rows
    )


def small_images(count: int) -> list[NamedImage]:
    """Wide images; the last has the hostile name."""
    found = [
        NamedImage(f"image-{number}.png", image.pixels[: SIDES[1]])
        for number, image in enumerate(pictures(count, SIDES[0]))
    ]
    return [*found[:-1], NamedImage(HOSTILE_IMAGE, found[-1].pixels)]


def data_settings(images: list[NamedImage]) -> dict[str, Any]:
    """What says which images results are about."""
    digest = hashlib.sha256("".join(pixel_hash(image.pixels) for image in images).encode()).hexdigest()
    return {
        "name": "synthetic", "images": len(images), "skipped": 0, "sizes": {f"{SIDES[0]}x{SIDES[1]}": len(images)},
        "digest": f"sha256:{digest}", "pixels_digest": f"sha256:{digest}",
    }  # fmt: skip


def _row(
    image: NamedImage, codec: str, setting: str, size: int | None, pixels: np.ndarray, saved: PictureFolder
) -> ImageRow:
    scores = {"psnr": psnr(image.pixels, pixels), "ssim": ssim(image.pixels, pixels)}
    picture = saved.save(codec, setting, image.id, pixels)
    return ImageRow(image.id, codec, setting, SIDES[0], SIDES[1], size, 0.002, 0.001, scores, picture)


def _rate(path: Path, images: list[NamedImage]) -> list[ImageRow]:
    """JPEG, and WebP under a hostile name."""
    saved = PictureFolder(path.parent / "pictures", path.parent)
    rows = []
    for image in images:
        saved.save_original(image.id, image.pixels)
        for codec, kind in (("jpeg", "JPEG"), (HOSTILE_CODEC, "WEBP")):
            for quality in QUALITIES:
                buffer = io.BytesIO()
                Image.fromarray(image.pixels).save(buffer, kind, quality=quality)
                pixels = np.asarray(Image.open(buffer).convert("RGB"))
                rows.append(_row(image, codec, str(quality), len(buffer.getvalue()), pixels, saved))
    points = summarise_rate(rows, [image.id for image in images], BOOTSTRAP).points
    curves = {
        codec: curve_of(
            (point.bpp.mean, point.metrics["psnr"].mean) for point in points if point.codec == codec and point.bpp
        )
        for codec in ("jpeg", HOSTILE_CODEC)
    }
    against = bd_rate(HOSTILE_CODEC, curves[HOSTILE_CODEC], "jpeg", curves["jpeg"], "psnr")
    settings = {"data": data_settings(images), "codecs": {"jpeg": {"kind": "jpeg"}, HOSTILE_CODEC: {"kind": "webp"}}}
    write_rows(rows_path(path), rows)
    write_results(
        path, "rate", settings, [point.as_dict() for point in points], CPU, bd_rates=[against.as_dict()], agreements=[],
        skipped=[{"image": "broken.png", "reason": "<i>truncated</i>"}], notes=[f"{HOSTILE_CODEC} is a name"],
    )  # fmt: skip
    return rows


def write_reconstruct(path: Path, images: list[NamedImage], radii: dict[str, float]) -> list[ImageRow]:
    """Blurred images in the place of reconstructions, by the radius of each "VAE"."""
    saved = PictureFolder(path.parent / "pictures", path.parent)
    rows = []
    for image in images:
        saved.save_original(image.id, image.pixels)
        for codec, radius in radii.items():
            for mode, more in (("mean", 0.0), ("sample", 0.5)):
                blurred = Image.fromarray(image.pixels).filter(ImageFilter.GaussianBlur(radius + more))
                rows.append(_row(image, codec, mode, None, np.asarray(blurred), saved))
    settings = {
        "vaes": [{"name": codec, "fingerprint": "sha256:0"} for codec in radii], "data": data_settings(images), "size": None,
        "modes": ["mean", "sample"], "dtype": "float32", "metrics": ["psnr", "ssim"], "backbones": {}, "feature_network": None,
        "sort": "psnr", "seed": 0, "bootstrap": {"resamples": BOOTSTRAP.resamples, "confidence": BOOTSTRAP.confidence},
    }  # fmt: skip
    write_rows(rows_path(path), rows)
    write_results(
        path, "reconstruct", settings, [summary.as_dict() for summary in summarise(Evaluation(rows), BOOTSTRAP)], CPU,
        differences=[difference.as_dict() for difference in differences(rows, BOOTSTRAP)], skipped=[], notes=[],
        published=[table.as_dict() for table in published_tables()],
    )  # fmt: skip
    return rows


def write_latents(path: Path, images: list[NamedImage]) -> Path:
    """Of two stand-ins for VAEs."""
    square = [NamedImage(image.id, image.pixels[:64, :64]) for image in images]
    models = {HOSTILE_VAE: PoolingModel(), "sideways": PoolingModel(sideways=0.5)}
    sheet = Sheet(path.parent / "latents", path.parent)
    rows = [_latents_row(name, model, lambda: batches(square, 2), sheet) for name, model in models.items()]
    settings = {"size": 64, "decoded": len(images), "data": "synthetic", "vae": list(models)}
    write_results(path, "latents", settings, rows, CPU, skipped=[])
    return path


def _latents_row(name: str, model: PoolingModel, parts: Callable[[], Any], sheet: Sheet) -> dict[str, Any]:
    found = survey(model, parts())
    disturbances = Disturbances(transforms([0.5], [90]), (0.1, 0.5), (0.5,))
    decoded = decode_disturbed(model, parts(), found.distribution.std(), disturbances)
    colours = PrincipalColours.fit(found.distribution.mean, found.distribution.covariance())
    scale = {"measured_scaling_factor": 1.0, "scaled_mean": 0.0, "scaled_std": 1.0}
    return {
        "vae": name, "fingerprint": "sha256:0", "factor": model.factor, "scaling": {"factor": 1.0}, **scale,
        **survey_fields(found, 64 * 64), **decoded_fields(decoded, found.distribution),
        "pictures": {"explained_variance": colours.explained, "files": sheet.add(name, model, parts(), colours)},
    }  # fmt: skip


def spread(median: float) -> Spread:
    """Some rounds about a median."""
    return Spread(median, 0.9 * median, 1.1 * median, 5)


def _speed(path: Path) -> Path:
    """Rows as `python -m eval speed` and `python -m train benchmark` write them."""
    parts = {"network_share": 0.7, "coder_share": 0.05, "symbols_per_second": 2e6, "bytes_ratio": 0.4}
    faster = Comparison(spread(2.5), spread(4.0), spread(1.6), 2**30, 2**31)
    slower = Comparison(spread(0.6), spread(1.0), spread(1.6), 2**30, 2**31)
    rows = [
        table.record(f"encode {HOSTILE_VAE}", 512, torch.bfloat16, 4, faster, 1e9, 1e10),
        table.record("compress", 512, torch.bfloat16, 4, slower, 1e9, 1e10, parts),
    ]
    write_results(path, "speed", {"matrix_peak": {"bfloat16": 1e10}}, rows, CPU)
    return path
