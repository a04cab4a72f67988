"""Variants of an image on disk: the picture, and what is known of it beside it."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from latentcodec.augmentation import Augmentation
from latentcodec.codec import LatentCodec
from latentcodec.images.items import ImageItem
from latentcodec.images.save import save_png
from latentcodec.latents import Moments
from latentcodec.variants import variants


def write_variant(
    codec: LatentCodec,
    item: ImageItem,
    moments: Moments,
    augmentation: Augmentation,
    seed: int,
    number: int,
    folder: Path,
) -> dict[str, Any]:
    """Write one variant and its .json; returns what the command tells of it."""
    picture = codec.decode(variants(codec, moments, augmentation, seed=seed, keys=[(item.id, number)]))
    # An id comes from a file, and may be any text: none of its parts leads out of the folder.
    parts = [part for part in PurePosixPath(item.id).parts if part not in ("..", "/")]
    path = folder.joinpath(*parts[:-1], f"{parts[-1]}-{number}.png")
    save_png(picture.to_uint8()[0], path)
    how = {"of": item.id, "kind": augmentation.kind, "size": augmentation.size, "seed": seed, "number": number}
    text = json.dumps({**item.metadata, "augmentation": how}, ensure_ascii=False, default=str, indent=1)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    return {"image": item.id, "variant": path.relative_to(folder).as_posix(), "method": picture.methods[0]}
