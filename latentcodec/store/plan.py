"""The plan of a store: its settings, which follow from source, VAE and wishes alone, and the beginning of its folder."""

import math

import torch

from latentcodec.codec import LatentCodec
from latentcodec.images.items import ImageSource, ImageStream, ListedSource
from latentcodec.store.errors import StoreError
from latentcodec.store.files import StoreFolder
from latentcodec.store.preprocessing import Preprocessing
from latentcodec.store.settings import (
    SETTINGS_NAME,
    Settings,
    ValuesKind,
    ValueType,
    plain_config,
    read_settings,
    write_settings,
)
from latentcodec.store.shards import DTYPES

_NAMES: dict[torch.dtype, ValueType] = {dtype: name for name, (dtype, _) in DTYPES.items()}

_PARTS = 1024
_BATCHES = 16
_MOST_IMAGES = 10_000
_MOST_BYTES = 2**29
_NATIVE_PIXELS = 1024 * 1024
"""What an image of native resolution is taken to have, on average."""


def require_listed(source: ImageSource | ImageStream, name: str) -> ListedSource:
    """The source, if a store can be planned for it.

    Raises:
        StoreError: its images come in order only, or it cannot tell which they are.
    """
    if isinstance(source, ListedSource):
        return source
    raise StoreError(
        f"{name}: expected a source with a number of images, any of which can be read at any time, found a "
        f"{type(source).__name__}; download it first"
    )


def plan_settings(
    source: ListedSource,
    codec: LatentCodec,
    preprocessing: Preprocessing,
    *,
    name: str,
    values: ValuesKind = "moments",
    dtype: ValueType | None = None,
    flipped: bool = False,
    limit: int | None = None,
    part_images: int | None = None,
    caption_key: str = "caption",
    label_key: str = "label",
) -> Settings:
    """The settings of the store that is asked for.

    Args:
        name: of the source, for people.
        dtype: of the stored values. None: bfloat16 if the network computes in it, which loses nothing, else float16.
        limit: only the first images of the source.
        part_images: images to a part. None: a 1024th of all, but 16 full batches of each shape at least, since the last
            batch of each is not full; 10,000 images or 512 MiB of values at most.
        Others: see `Settings`.

    Raises:
        StoreError: numbers out of range, or shapes that do not suit the VAE.
    """
    if limit is not None and limit < 1:
        raise StoreError(f"limit: expected at least 1 image, found {limit}")
    if part_images is not None and part_images < 1:
        raise StoreError(f"part_images: expected at least 1, found {part_images}")
    preprocessing.require_factor(codec.factor)
    compute_dtype = _NAMES[codec.dtype]
    settings = Settings(
        fingerprint=codec.fingerprint,
        config=plain_config(codec.vae.config),
        preprocessing=preprocessing.to_json(),
        values=values,
        dtype=dtype or ("bfloat16" if compute_dtype == "bfloat16" else "float16"),
        flipped=flipped,
        compute_dtype=compute_dtype,
        source=name,
        images=len(source) if limit is None else min(limit, len(source)),
        listing=source.listing(),
        part_images=1,
        caption_key=caption_key,
        label_key=label_key,
    )
    images = part_images or _part_images(settings, preprocessing, codec)
    return Settings(**{**settings.to_json(), "part_images": images})


def stored_part_images(folder: StoreFolder) -> int | None:
    """Images to a part of a store that was begun, for whoever wants to go on with it; None if there is none."""
    return read_settings(folder).part_images if folder.exists(SETTINGS_NAME) else None


def begin(folder: StoreFolder, settings: Settings) -> None:
    """Write the settings into a new store, or compare them with those of an old one.

    Raises:
        StoreMismatchError: it is another store.
        StoreError: the folder holds other things.
    """
    if not folder.exists(SETTINGS_NAME):
        others = [name for name in folder.list("") if not name.startswith(".")]
        # looked at once more, since another process of the same launch may have begun the store meanwhile
        if others and not folder.exists(SETTINGS_NAME):
            raise StoreError(
                f"{folder}: expected a latent store or nothing, found {', '.join(others[:3])}; name another folder"
            )
    if not folder.exists(SETTINGS_NAME):
        write_settings(folder, settings)
    read_settings(folder).require_same(settings, str(folder))


def _part_images(settings: Settings, preprocessing: Preprocessing, codec: LatentCodec) -> int:
    shapes = preprocessing.policy.shapes
    pixels = max((height * width for height, width in shapes), default=_NATIVE_PIXELS)
    stored = settings.channels * (2 if settings.values == "moments" else 1) * (2 if settings.flipped else 1)
    size = DTYPES[settings.dtype][0].itemsize * stored * pixels // settings.factor**2
    batches = sum(codec.batch_size(height, width) for height, width in shapes) or 1  # one of each shape
    images = max(math.ceil(settings.images / _PARTS), _BATCHES * batches)
    most = min(_MOST_IMAGES, max(_MOST_BYTES // size, 1))
    return min(-(-images // batches) * batches, max(most // batches * batches, 1))
