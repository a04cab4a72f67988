"""`latentcodec precompute`: a dataset of images to a store of latents."""

import os
import re
from json import dumps
from typing import TYPE_CHECKING, Literal

from latentcodec.commands import CommandError

if TYPE_CHECKING:
    from latentcodec.store.files import StoreFolder
    from latentcodec.store.precompute import Outcome
    from latentcodec.store.preprocessing import Buckets, Crop, Native


def precompute_latents(
    source: str,
    store: str,
    vae: str | None = None,
    size: str = "256",
    resolution: Literal["crop", "buckets", "native"] = "crop",
    bucket_step: int = 64,
    max_aspect: float = 2.0,
    min_side: int = 0,
    values: Literal["moments", "mean"] = "moments",
    flip: bool = False,
    store_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str | None = None,
    batch: int | None = None,
    compile: bool = False,
    workers: int | None = None,
    part_images: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    caption_key: str = "caption",
    label_key: str = "label",
    json: bool = False,
    variant: str | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
) -> None:
    """Encode a dataset of images into a store of latents, for diffusion training.

    The source is a folder, webdataset .tar files, .parquet files, hf:owner/name, or procedural; paths may be URLs
    (s3://...), the store's too. The same command again goes on where it was interrupted. Any number of processes may work
    on one store, started by `accelerate launch`, by torchrun or one by one; all they need is the same storage.

    Images that cannot be read are skipped, counted, and listed in skipped.jsonl in the store; they do not make the command
    fail. Latents that are NaN or infinite do.

    Example:
        latentcodec precompute photos latents --vae out/vae --size 512
        latentcodec precompute s3://bucket/train.tar s3://bucket/latents --vae out/vae --size 1024 --resolution buckets --flip

    Args:
        source: The images, see above.
        store: Folder or URL of the store, new or interrupted.
        vae: A diffusers folder, a file of weights or a name on the Hugging Face hub.
        size: Of what is encoded, in pixels: 512, or height x width like 512x768. For buckets it is the area: 1024 means
            up to 1024 * 1024 pixels.
        resolution: crop gives all images that size, buckets gives each the nearest of several aspect ratios, native leaves
            them as they are.
        bucket_step: Sides of buckets are multiples of it, in pixels.
        max_aspect: Of the long to the short side of a bucket.
        min_side: Skip images with a shorter side than this, in pixels; others are enlarged where needed.
        values: Store the posterior's mean and logvar, to draw from while training, or its mean alone.
        flip: Store the latents of the mirrored images too.
        store_dtype: Type of the stored values. auto is bfloat16 if the network computes in it, else float16.
        dtype: Type to compute in. auto is bfloat16 where the machine has it in hardware, else float32.
        device: cpu or cuda. A GPU if there is one, if not given; of several, the one of this process's LOCAL_RANK.
        batch: Images in a batch. If not given: as many as have 16 * 512 * 512 pixels on a GPU, one on a CPU.
        compile: Compile the encoder, once for each shape.
        workers: Processes that decode images, for each process that encodes. One on a CPU, four on a GPU, if not given.
        part_images: Images that are done or lost together when the run is interrupted. If not given, those of the store if
            there is one, else a 1024th of all, but at least 16 batches of each shape.
        limit: Only the first so many images of the source.
        column: The column with the images of parquet files or of a dataset of the hub, where it is not clear.
        caption_key: Which column or JSON field is the caption. A .txt file beside an image is `caption`.
        label_key: Which is the label, an integer. A .cls file beside an image is `label`.
        json: Print one JSON object instead of text.
        variant: Read the weights of this variant of a folder, for example fp16.
        scaling_factor: Scaling factor of the latents, for a single file that does not say it.
        shift_factor: Shift factor of the latents, likewise.
    """
    import torch

    from latentcodec.commands.codec import open_codec
    from latentcodec.images.sources import open_source
    from latentcodec.store.files import StoreFolder
    from latentcodec.store.launch import Launch
    from latentcodec.store.plan import plan_settings, require_listed, stored_part_images
    from latentcodec.store.precompute import precompute
    from latentcodec.store.preprocessing import Preprocessing

    height, width = _parse_size(size)
    if source.partition(":")[0] == "procedural" and limit is None:
        raise CommandError("--limit: procedural images have no end; say how many of them to encode")
    if compile and resolution == "native":
        raise CommandError(
            "--compile: the encoder would be compiled for each size of the images; leave it out for native"
        )
    launch = Launch.from_environment()
    if device is None and torch.cuda.is_available():
        device = f"cuda:{launch.local_rank % torch.cuda.device_count()}"
    if device is not None and device.startswith("cuda:"):
        torch.cuda.set_device(device)
    images = require_listed(open_source(source, **({} if column is None else {"column": column})), source)
    codec = open_codec(
        vae, dtype, device=device, compile=compile, batch_pixels=None if batch is None else batch * height * width,
        variant=variant, scaling_factor=scaling_factor, shift_factor=shift_factor,
    )  # fmt: skip
    folder = StoreFolder(store)
    policy = _policy(resolution, height, width, bucket_step, max_aspect)
    settings = plan_settings(
        images, codec, Preprocessing(policy, min_side), name=_source_name(source), values=values, flipped=flip,
        dtype=None if store_dtype == "auto" else store_dtype, limit=limit, part_images=part_images or stored_part_images(folder),
        caption_key=caption_key, label_key=label_key,
    )  # fmt: skip
    if workers is None:
        workers = 1 if codec.device.type == "cpu" else launch.cores
    shown = launch.rank == 0
    outcome = precompute(images, folder, codec, settings, workers=workers, launch=launch, progress=shown)
    if shown:
        print(_as_json(outcome) if json else _as_text(outcome, folder))


def _parse_size(size: str) -> tuple[int, int]:
    """Height and width of "512" or "512x768"."""
    matched = re.fullmatch(r"(\d+)(?:x(\d+))?", size)
    if matched is None or int(matched[1]) == 0 or matched[2] == "0":
        raise CommandError(f"--size: expected pixels such as 512, or height x width such as 512x768, found {size!r}")
    return int(matched[1]), int(matched[2] or matched[1])


def _policy(
    resolution: Literal["crop", "buckets", "native"], height: int, width: int, step: int, max_aspect: float
) -> "Crop | Buckets | Native":
    from latentcodec.store.preprocessing import Buckets, Crop, Native

    match resolution:
        case "crop":
            return Crop(height, width)
        case "buckets":
            return Buckets(height * width, step, max_aspect)
        case "native":
            return Native()


def _source_name(source: str) -> str:
    """Without the folders above it, which are this machine's business."""
    kind, _, rest = source.partition(":")
    if kind == "procedural" or (kind == "hf" and not os.path.exists(rest)):
        return source
    return os.path.basename(source.rstrip("/")) or source


def _as_json(outcome: "Outcome") -> str:
    manifest = outcome.manifest
    report = {
        "rows": manifest.rows,
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "captions": manifest.captions,
        "labels": manifest.labels,
        "skipped": manifest.skipped,
        "fingerprint": manifest.settings.fingerprint,
        "encoded_now": outcome.images,
        "seconds": outcome.seconds,
    }
    return dumps(report, indent=2)


def _as_text(outcome: "Outcome", folder: "StoreFolder") -> str:
    manifest, settings = outcome.manifest, outcome.manifest.settings
    size = sum(shard.bytes for shard in manifest.shards)
    lines = [
        f"{folder}: {manifest.rows:,} images as {settings.values} in {settings.dtype}"
        f"{', and mirrored' if settings.flipped else ''}; {len(manifest.shards):,} shards, {size / 2**20:,.1f} MiB"
    ]
    rows: dict[str, int] = {}
    for shard in manifest.shards:
        shape = "native" if shard.native else f"{shard.height * settings.factor} x {shard.width * settings.factor}"
        rows[shape] = rows.get(shape, 0) + shard.rows
    if len(rows) > 1:
        lines.append("height x width: " + ", ".join(f"{shape} ({count:,})" for shape, count in sorted(rows.items())))
    if manifest.statistics is not None:
        std = manifest.statistics.sample_std or manifest.statistics.std
        mean = manifest.statistics.mean
        lines.append(f"raw latents, by channel: mean {_numbers(mean)}; standard deviation {_numbers(std)}")
    if manifest.captions or manifest.labels:
        lines.append(f"{manifest.captions:,} with a caption, {manifest.labels:,} with a label")
    skipped = sum(manifest.skipped.values())
    if skipped:
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in manifest.skipped.items())
        lines.append(f"{skipped:,} of {settings.images:,} images were skipped: {reasons}; see skipped.jsonl there")
    if outcome.images:
        rate = outcome.images / outcome.seconds
        lines.append(f"{outcome.images:,} images by this process in {outcome.seconds:,.1f} s, {rate:,.1f} images/s")
    else:
        lines.append("it was complete already")
    return "\n".join(lines)


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values[:16]) + (" ..." if len(values) > 16 else "")
