"""`latentcodec augment`: more images of the same things, from latents moved a little."""

from typing import Literal


def augment_images(
    source: str,
    *,
    output: str,
    kind: Literal["posterior", "white", "smooth"] = "posterior",
    size: float = 1.0,
    copies: int = 1,
    seed: int = 0,
    vae: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str | None = None,
    tiling: Literal["auto", "never", "exact", "fast"] = "auto",
    limit: int | None = None,
    json: bool = False,
    variant: str | None = None,
) -> None:
    """Make variants of images by moving their latents at random, labels and captions kept.

    Of photo.jpg come photo.jpg-0.png, photo.jpg-1.png, ...; beside each lies a .json with the label, the caption and all else
    that the source knows of the image, and with kind, size and seed. So the output is a source for training again. A variant
    depends on its image, its number and the seed alone. Broken images are skipped, listed, and make the exit code 1.

    posterior moves within what the VAE takes for the same image: size 1 is a draw, often invisible. white is texture, smooth is
    light and soft shapes; both are in units of the latents' own deviation over a data set. `python -m eval augment` tells how
    far images move.

    Example:
        latentcodec augment photos -o more --kind smooth --size 0.3 --copies 4

    Args:
        source: A folder, webdataset .tar files, .parquet files, hf:owner/name.
        output: Folder to write to.
        kind: Of the random displacement, see above.
        size: Of the displacement; 0 gives plain reconstructions.
        copies: Variants of each image.
        seed: Another seed gives other variants.
        vae: A diffusers folder, a file of weights or a name on the Hugging Face hub. That of the package if not given.
        dtype: Type to compute in. auto is bfloat16 where the machine has it in hardware, else float32.
        device: cpu or cuda. A GPU if there is one, if not given.
        tiling: When to work in tiles. auto is where memory asks for it; exact and fast say how.
        limit: Only the first so many images.
        json: Print one JSON object instead of text.
        variant: Read the weights of this variant of a folder, for example fp16.
    """
    from pathlib import Path

    from tqdm import tqdm

    from latentcodec.augmentation import Augmentation
    from latentcodec.commands import CommandError
    from latentcodec.commands.codec import open_codec
    from latentcodec.commands.report import Row, as_json, require_none
    from latentcodec.commands.variants import write_variant
    from latentcodec.images.decode import BrokenImageError
    from latentcodec.images.items import ImageSource
    from latentcodec.images.skipped import SkippedImages
    from latentcodec.images.sources import open_source
    from latentcodec.memory import freed_memory_kept

    try:
        augmentation = Augmentation(kind, size)
    except ValueError as error:
        raise CommandError(f"--{error}") from error
    if copies < 1:
        raise CommandError(f"--copies: expected at least 1, found {copies}")
    images = open_source(source)
    if not isinstance(images, ImageSource):
        raise CommandError(
            f"{source}: expected images that can be read at any time, found a stream; download them first"
        )
    if source.partition(":")[0] == "procedural" and limit is None:
        raise CommandError("--limit: procedural images have no end; say how many of them to take")
    codec = open_codec(vae, dtype, device=device, tiling=tiling, variant=variant)
    total = len(images) if limit is None else min(limit, len(images))
    rows: list[Row] = []
    skipped = SkippedImages()
    with freed_memory_kept(), tqdm(total=total * copies, unit="image", disable=None) as progress:
        for index in range(total):
            try:
                item = images[index]
                pixels = item.decode()
            except BrokenImageError as error:
                skipped.add(error.id, error.reason)
                progress.update(copies)
                continue
            moments = codec.encode_moments(pixels)
            for number in range(copies):
                rows.append(write_variant(codec, item, moments, augmentation, seed, number, Path(output)))
                progress.update()
    if json:
        print(as_json(codec, rows, skipped, kind=kind, size=size, seed=seed))
    else:
        print(f"{output}: {len(rows)} variants of {total - len(skipped)} images, {kind} of size {size:g}, seed {seed}")
    require_none(skipped, total)
