"""Under which protocol figures were made: as settings to store, as lines to print, and notes on what departs from it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eval.images import ImageSet
from eval.perceptual import LpipsNet, find_backbone, hub_cache_path
from eval.reconstruct.evaluate import Evaluation, Plan
from latentcodec.codec import LatentCodec

_NETS: dict[str, LpipsNet] = {"lpips_alex": "alex", "lpips_vgg": "vgg", "dists": "vgg"}
MANY_IMAGES = 10_000
"""Below it rFID says more about the number of images than about the VAE."""


def settings_of(
    options: Any,
    metrics: Sequence[str],
    images: ImageSet,
    codecs: Mapping[str, LatentCodec],
    plan: Plan,
    found: Evaluation,
) -> dict[str, Any]:
    """Everything that the figures depend on, with JSON types and without paths."""
    sizes = Counter(f"{row.width}x{row.height}" for row in {row.image: row for row in found.rows}.values())
    return {
        "vaes": [
            {
                "name": name,
                "fingerprint": codec.fingerprint,
                "latent_channels": codec.vae.config.latent_channels,
                "factor": codec.factor,
            }
            for name, codec in codecs.items()
        ],
        "data": {
            "name": images.name,
            "images": sum(sizes.values()),
            "skipped": len(images.skipped),
            "sizes": dict(sizes.most_common()),
            "digest": images.digest,
        },
        "size": options.size,
        "modes": list(plan.modes),
        "dtype": options.dtype,
        "metrics": list(metrics),
        "backbones": backbone_files(metrics, {"vgg": options.vgg, "alex": options.alex}),
        "feature_network": None if plan.network is None else plan.network.description,
        "sort": options.sort,
        "seed": options.seed,
        "bootstrap": {"resamples": options.resamples, "confidence": options.confidence},
    }


def protocol_lines(settings: Mapping[str, Any]) -> Iterator[str]:
    """The settings, as sentences above a table."""
    data, size, bootstrap = settings["data"], settings["size"], settings["bootstrap"]
    shapes = [f"{count} of {shape}" for shape, count in data["sizes"].items()]
    listed = ", ".join(shapes[:3] + ["..."] * (len(shapes) > 3))
    cut = f"short side scaled to {size} (Lanczos), {size}x{size} cut from the centre"
    yield f"{data['images']} images of {data['name']}: {f'whole ({listed})' if size is None else cut}"
    yield (
        f"VAEs in {settings['dtype']}; latents: posterior {' and '.join(settings['modes'])} (seed {settings['seed']}); "
        "metrics on 8-bit RGB, means over images"
    )
    yield (
        f"[low, high]: {bootstrap['confidence']:.0%} bootstrap interval over images ({bootstrap['resamples']} resamples); "
        "a - b: paired difference"
    )
    for net, name in settings["backbones"].items():
        yield f"backbone {net}: {name}"
    if settings["feature_network"] is not None:
        yield f"rFID and KID of {data['images']} images: {settings['feature_network']}"


def notes_on(images: ImageSet, found: Evaluation, metrics: Sequence[str]) -> list[str]:
    """What was left out or done otherwise than the protocol says."""
    notes = [f"skipped {id}: {reason}" for id, reason in images.skipped.rows]
    for metric, too_small in found.too_small.items():
        image, reason = next(iter(too_small.items()))
        notes.append(
            f"{metric} leaves out {len(too_small)} images that are too small for it, such as {image} ({reason})"
        )
    for codec, tiled in found.tiled.items():
        notes += [f"{codec} computed {image} in {method}" for image, method in tiled.items()]
    count = len({row.image for row in found.rows})
    if "rfid" in metrics and count < MANY_IMAGES:
        notes.append(
            f"rFID of {count} images is far above that of many; compare it only with others of the same images"
        )
    return notes


def backbone_files(metrics: Sequence[str], given: Mapping[LpipsNet, str | None]) -> dict[str, str]:
    """Name of the file of each backbone in use."""
    nets = dict.fromkeys(_NETS[metric] for metric in metrics if metric in _NETS)
    return {net: (find_backbone(net, given[net]) or hub_cache_path(net)).name for net in nets}
