"""`python -m eval anomaly VAE --data NORMAL [--others OTHER]`: does the detector find planted defects, and other kinds of images?

Some of the normal images are held out. Each of them is also shown with a defect: a scratch, a blurred patch, a piece of
another image. AUROC is the chance that an image with the defect scores higher than one without (Hanley & McNeil 1982), 0.5
for a guess; its interval is a bootstrap over the images of both kinds. Beside the detector stands the plainest one: the mean
absolute difference to the mean of the normal images.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from eval.bootstrap import Bootstrap
from eval.images import ImageSet
from eval.results import write_results
from latentcodec.anomaly.detector import Detector, fit
from latentcodec.arguments import Parser
from latentcodec.codec import LatentCodec

Pixels = UInt8[np.ndarray, "height width 3"]
Scores = Float64[np.ndarray, " _"]


def scratch(image: Pixels, size: int, other: Pixels, rng: np.random.Generator) -> Pixels:
    """A bright crooked line, `size` pixels long and a 16th of that wide."""
    picture = Image.fromarray(image)
    angle = rng.uniform(0, np.pi)
    centre = _place(image, size, rng) + size / 2
    along = np.linspace(-size / 2, size / 2, 6)
    bend = rng.uniform(-size / 16, size / 16, 6)
    points = [(float(centre[1] + a * np.cos(angle) - b * np.sin(angle)), float(centre[0] + a * np.sin(angle) + b * np.cos(angle)))
              for a, b in zip(along, bend, strict=True)]  # fmt: skip
    ImageDraw.Draw(picture).line(points, fill=(235, 235, 225), width=max(1, size // 16), joint="curve")
    return np.asarray(picture)


def blur(image: Pixels, size: int, other: Pixels, rng: np.random.Generator) -> Pixels:
    """A square of `size` pixels blurred by a Gaussian of an eighth of that."""
    top, left = _place(image, size, rng)
    changed = image.copy()
    patch = Image.fromarray(image[top : top + size, left : left + size]).filter(ImageFilter.GaussianBlur(size / 8))
    changed[top : top + size, left : left + size] = np.asarray(patch)
    return changed


def foreign(image: Pixels, size: int, other: Pixels, rng: np.random.Generator) -> Pixels:
    """A disc of `size` pixels out of an image of another kind."""
    top, left = _place(image, size, rng)
    down, across = _place(other, size, rng)
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    inside = rows**2 + columns**2 < (size / 2) ** 2
    changed = image.copy()
    changed[top : top + size, left : left + size][inside] = other[down : down + size, across : across + size][inside]
    return changed


DEFECTS: dict[str, Callable[[Pixels, int, Pixels, np.random.Generator], Pixels]] = {
    "scratch": scratch, "blur": blur, "foreign": foreign,
}  # fmt: skip
"""Defects by name: (image, size in pixels, an image of another kind, random numbers) -> image with the defect."""


def _place(image: Pixels, size: int, rng: np.random.Generator) -> np.ndarray:
    """Top and left of a square of `size` pixels inside."""
    return rng.integers(0, np.array(image.shape[:2]) - size + 1)


def auroc(normal: Scores, anomalous: Scores, *, paired: bool = False) -> float:
    """Chance that one of the second scores is above one of the first; ties count half.

    Args:
        paired: score i of both is of the same image. No image is then compared with itself: that its defect raises its own
            score is easier than to tell images apart, and is not asked.
    """
    return _mean_of_pairs(_in_order(normal, anomalous), np.ones(len(normal)), np.ones(len(anomalous)), paired)


def auroc_interval(normal: Scores, anomalous: Scores, *, paired: bool = False) -> tuple[float, float]:
    """Middle of the AUROCs, as `Bootstrap` says, over images drawn with replacement; `paired`: both scores of an image are
    drawn together."""
    bootstrap = Bootstrap()
    rng = np.random.default_rng(bootstrap.seed)
    in_order = _in_order(normal, anomalous)
    values = []
    for _ in range(bootstrap.resamples):
        ones = rng.multinomial(len(normal), np.full(len(normal), 1 / len(normal)))
        others = ones if paired else rng.multinomial(len(anomalous), np.full(len(anomalous), 1 / len(anomalous)))
        values.append(_mean_of_pairs(in_order, ones, others, paired))
    outside = (1 - bootstrap.confidence) / 2
    low, high = np.quantile(values, (outside, 1 - outside))
    return float(low), float(high)


def _in_order(normal: Scores, anomalous: Scores) -> Float64[np.ndarray, "others ones"]:
    """1 where the anomalous image scores higher, half where they are equal."""
    return (anomalous[:, None] > normal[None]) + 0.5 * (anomalous[:, None] == normal[None])


def _mean_of_pairs(in_order: np.ndarray, ones: np.ndarray, others: np.ndarray, paired: bool) -> float:
    weights = np.outer(others, ones).astype(np.float64)
    if paired:
        np.fill_diagonal(weights, 0)
    return float((weights * in_order).sum() / weights.sum())


class MeanImage:
    """The plainest detector: how far an image is from the mean of the normal ones, on average over its pixels."""

    def __init__(self, images: Sequence[Pixels]) -> None:
        self.mean = np.mean([image.astype(np.float64) for image in images], axis=0)

    def score(self, image: Pixels) -> float:
        """Mean absolute difference in levels."""
        return float(np.abs(image - self.mean).mean())


def tiles(image: Pixels, side: int | None) -> list[Pixels]:
    """Squares of `side` pixels beside each other, without what is left at the right and at the bottom; None: the image."""
    if side is None:
        return [image]
    rows, columns = image.shape[0] // side, image.shape[1] // side
    return [image[side * i : side * (i + 1), side * j : side * (j + 1)] for i in range(rows) for j in range(columns)]


def row(
    name: str, size: int | None, normal: dict[str, Scores], other: dict[str, Scores], *, paired: bool
) -> dict[str, Any]:
    """AUROC of every way to score."""
    result: dict[str, Any] = {
        "defect": name,
        "size": size,
        "normal": len(normal["score"]),
        "images": len(other["score"]),
    }
    for way in normal:
        low, high = auroc_interval(normal[way], other[way], paired=paired)
        result[way] = {"auroc": auroc(normal[way], other[way], paired=paired), "low": low, "high": high}
    return result


def _score(detector: Detector, codec: LatentCodec, plain: MeanImage, images: Sequence[Pixels]) -> dict[str, Scores]:
    """{way: scores}: the detector's, each of its terms alone, and the plain one's."""
    verdicts = [detector.score(codec, image) for image in tqdm(images, unit="image", disable=None)]
    ways = {"score": np.array([verdict.score for verdict in verdicts])}
    ways |= {name: np.array([verdict.terms[name] for verdict in verdicts]) for name in verdicts[0].terms}
    return ways | {"mean image": np.array([plain.score(image) for image in images])}


def evaluate(
    codec: LatentCodec,
    normal: Sequence[Pixels],
    others: Sequence[Pixels],
    sizes: Sequence[int],
    *,
    held_out: int,
    seed: int = 0,
) -> tuple[Detector, list[dict[str, Any]]]:
    """Fit on all but `held_out` of the normal images, drawn at random; one row for each defect and size, and one for `others`.

    Args:
        normal, others: squares of one size.
    """
    order = np.random.default_rng(seed).permutation(len(normal))
    shown, fitted = [normal[i] for i in order[:held_out]], [normal[i] for i in order[held_out:]]
    detector = fit(codec, tqdm(fitted, unit="image", disable=None), size=normal[0].shape[0])
    plain = MeanImage(fitted)
    clean = _score(detector, codec, plain, shown)
    rows = []
    for name, defect in DEFECTS.items():
        for size in sizes:
            changed = [
                defect(image, size, others[number % len(others)], np.random.default_rng([seed, number]))
                for number, image in enumerate(shown)
            ]
            rows.append(row(name, size, clean, _score(detector, codec, plain, changed), paired=True))
    rows.append(row("another kind", None, clean, _score(detector, codec, plain, others), paired=False))
    alarms = float(np.mean(clean["score"] > detector.threshold))
    rows.append({"defect": "none", "size": None, "images": len(shown), "false_alarms": alarms, "rate": detector.rate})
    return detector, rows


def main(arguments: list[str]) -> None:
    """Print the table and, with --json FILE, save it."""
    parser = Parser(prog="eval anomaly", description=__doc__)
    parser.add_argument("vae", type=str, help="folder, file or hub name")
    parser.add_argument("--data", type=str, required=True, help="normal images of one kind")
    parser.add_argument("--others", type=str, required=True, help="images of another kind")
    parser.add_argument("--sizes", type=list[int], default=[16, 32, 64], help="of defects, in pixels")
    parser.add_argument("--held_out", type=int, default=40, help="normal images that are not fitted on")
    parser.add_argument("--other_images", type=int, default=40, help="of another kind")
    parser.add_argument("--size", type=int, default=256, help="side that all images are cut to")
    parser.add_argument(
        "--tiles", type=int | None, default=None,
        help="cut the images, as large as they are, into squares of so many pixels instead: parts of a surface",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", type=str | None, default=None)
    parser.add_argument("--json", type=str | None, default=None, help="file to write")
    options = parser.parse(arguments)
    codec = LatentCodec.from_pretrained(options.vae, device=options.device)
    size = options.size if options.tiles is None else None
    data, others = ImageSet(options.data, size=size), ImageSet(options.others, size=size)
    normal_pixels, other_pixels = (
        list(islice((part for image in images for part in tiles(image.pixels, options.tiles)), most))
        for images, most in ((data, None), (others, options.other_images))
    )
    detector, rows = evaluate(
        codec, normal_pixels, other_pixels, options.sizes, held_out=options.held_out, seed=options.seed
    )
    ways = ["score", *detector.calibrations, "mean image"]
    print(f"{'AUROC':14}{'size':>6}" + "".join(f"{way:>22}" for way in ways))
    for of_defect in rows[:-1]:
        cells = (of_defect[way] for way in ways)
        print(
            f"{of_defect['defect']:14}{of_defect['size'] or '':>6}"
            + "".join(f"{cell['auroc']:>8.3f} ({cell['low']:.3f}-{cell['high']:.3f})" for cell in cells)
        )
    print(
        f"false alarms: {rows[-1]['false_alarms']:.1%} of {rows[-1]['images']} normal images, {detector.rate:.1%} asked for"
    )
    if options.json is not None:
        settings = {
            "vae": Path(options.vae).name, "fingerprint": codec.fingerprint, "data": data.name, "others": others.name,
            "fitted": detector.images, "calibrated": len(detector.scores), "size": detector.size, "seed": options.seed,
            "tiles": options.tiles is not None,
        }  # fmt: skip
        write_results(options.json, "anomaly", settings, rows, codec.device)
