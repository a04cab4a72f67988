"""`python -m eval augment VAE --data DIR`: how far images move with the size of an augmentation.

The distance is that of a variant to the plain reconstruction, so that what the VAE loses anyway plays no part. The same
displacement is drawn for all sizes of a kind, only longer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from eval.bootstrap import Bootstrap, Scores, mean_interval
from eval.images import ImageSet
from eval.metrics import Metric, make_metrics
from eval.results import write_results
from latentcodec.arguments import Parser
from latentcodec.augmentation import KINDS, Augmentation
from latentcodec.codec import LatentCodec
from latentcodec.variants import variants

SIZES = {"posterior": (1.0, 4.0, 16.0, 64.0), "white": (0.05, 0.1, 0.2, 0.4), "smooth": (0.05, 0.1, 0.2, 0.4)}
"""What is measured of each kind if nothing else is asked."""


def distances(
    codec: LatentCodec,
    images: ImageSet,
    augmentations: Sequence[Augmentation],
    metrics: Mapping[str, Metric],
    seed: int = 0,
) -> list[dict[str, Scores]]:
    """{metric: {image: distance of its variant to its reconstruction}}, one for each augmentation."""
    found: list[dict[str, dict[str, float]]] = [{name: {} for name in metrics} for _ in augmentations]
    for image in tqdm(images, unit="image", disable=None):
        moments = codec.encode_moments(image.pixels)
        plain = codec.decode(moments).to_uint8()[0]
        for augmentation, scores in zip(augmentations, found, strict=True):
            moved = variants(codec, moments, augmentation, seed=seed, keys=[(image.id, 0)])
            variant = codec.decode(moved).to_uint8()[0]
            for name, metric in metrics.items():
                scores[name][image.id] = metric(plain, variant)
    return [dict(scores) for scores in found]


def main(arguments: list[str]) -> None:
    """Print the table and, with --json FILE, save it."""
    parser = Parser(prog="eval augment", description=__doc__)
    parser.add_argument("vae", type=str, help="folder, file or hub name")
    parser.add_argument("--data", type=str, required=True, help="images: a folder, shards, hf:owner/name")
    parser.add_argument("--images", type=int | None, default=None, help="at most so many")
    parser.add_argument("--size", type=int | None, default=None, help="short side scaled to it and a square cut")
    parser.add_argument("--kinds", type=list[str], default=list(KINDS), help=f"some of {', '.join(KINDS)}")
    parser.add_argument("--metrics", type=list[str], default=["lpips_alex", "psnr"], help="as in `eval reconstruct`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", type=str, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=str | None, default=None, help="file to write")
    options = parser.parse(arguments)
    augmentations = [Augmentation(kind, size) for kind in options.kinds for size in SIZES.get(kind, (1.0,))]
    metrics = make_metrics(options.metrics, device=options.device)
    codec = LatentCodec.from_pretrained(options.vae, device=options.device)
    images = ImageSet(options.data, limit=options.images, size=options.size)
    rows: list[dict[str, Any]] = []
    print(f"{'':12}{'size':>8}" + "".join(f"{name:>28}" for name in metrics))
    for augmentation, scores in zip(
        augmentations, distances(codec, images, augmentations, metrics, options.seed), strict=True
    ):
        intervals = {name: mean_interval(of_metric, Bootstrap()) for name, of_metric in scores.items()}
        cells = "".join(f"{i.mean:>12.4f} ({i.low:.4f}-{i.high:.4f})" for i in intervals.values())
        print(f"{augmentation.kind:12}{augmentation.size:8g}{cells}")
        rows.append(
            {"kind": augmentation.kind, "size": augmentation.size, **{n: i.as_dict() for n, i in intervals.items()}}
        )
    if options.json is not None:
        settings = {
            "vae": Path(options.vae).name, "fingerprint": codec.fingerprint, "dtype": str(codec.dtype).removeprefix("torch."),
            "data": images.name, "size": options.size, "seed": options.seed,
        }  # fmt: skip
        write_results(options.json, "augment", settings, rows, codec.device)
