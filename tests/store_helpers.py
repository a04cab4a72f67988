"""What the tests of latent stores share: a small network, a folder of images, and a store's rows in plain form."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from latentcodec.codec import LatentCodec
from latentcodec.images.sources import open_source
from latentcodec.store.crew import WRITERS_FOLDER
from latentcodec.store.files import StoreFolder
from latentcodec.store.index import IndexRow, read_index
from latentcodec.store.launch import Launch
from latentcodec.store.manifest import Manifest
from latentcodec.store.plan import plan_settings, require_listed
from latentcodec.store.precompute import Outcome, precompute
from latentcodec.store.preprocessing import Crop, Preprocessing
from latentcodec.store.shards import Shard
from latentcodec.vae.presets import build_vae

SMALL = Preprocessing(Crop(32, 32))


def small_vae(seed: int = 1, **overrides: object) -> AutoencoderKL:
    """A network of factor 8 that encodes 32 x 32 in milliseconds."""
    torch.manual_seed(seed)
    config = {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4, "scaling_factor": 0.5} | overrides
    return build_vae("tiny-f8d4", **config).eval()


def small_codec(seed: int = 1, **settings: Any) -> LatentCodec:
    return LatentCodec(small_vae(seed), **settings)


def write_images(folder: Path, count: int, *, seed: int = 0) -> Path:
    """PNG files of different sizes, wide, square and tall."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        shape = [(24, 48), (40, 40), (48, 24), (33, 41)][number % 4]
        small = random.integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(small).resize(shape[::-1]).save(folder / f"{number:03d}.png")
    return folder


def encode(
    source: str | Path,
    store: str | Path,
    codec: LatentCodec,
    preprocessing: Preprocessing = SMALL,
    *,
    workers: int = 0,
    launch: Launch | None = None,
    **wishes: Any,
) -> Outcome:
    """What the command does."""
    images = require_listed(open_source(source), str(source))
    settings = plan_settings(images, codec, preprocessing, **{"name": "images", "dtype": "float32", **wishes})
    return precompute(images, StoreFolder(store), codec, settings, workers=workers, launch=launch, progress=False)


def rows_of(store: str | Path, manifest: Manifest) -> Iterator[tuple[IndexRow, Tensor, Tensor | None]]:
    """Every row, shard by shard: what the index says, values, and those of the mirrored image."""
    folder = StoreFolder(store)
    for entry in manifest.shards:
        shard = Shard(folder, entry, manifest.settings.values)
        for number, fields in enumerate(read_index(folder, entry).to_pylist()):
            flipped = shard.row(number, flipped=True) if shard.flipped else None
            yield IndexRow(**fields), shard.row(number), flipped
        shard.close()


def objects(store: Path) -> dict[str, bytes]:
    """Every file of a store on disk, but for the announcements of writers, which mean nothing once they are gone."""
    files = [path for path in store.rglob("*") if path.is_file() and path.parent.name != WRITERS_FOLDER]
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}
